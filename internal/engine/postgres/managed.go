package postgres

import "strings"

// The reasons for which parameters are refused.
const (
	whyNetwork     = "where it listens belongs to the instance's place"
	whyTLS         = "all connections are encrypted with the datastore's own certificates"
	whyAccess      = "access follows users and trusted sources"
	whyFiles       = "files lie where the instance's keeper expects them"
	whyReplication = "replication follows the datastore's instances and its replication mode"
	whyArchive     = "WAL is archived by the plane"
	whyDurability  = "what was acknowledged has to survive a crash"
	whyLog         = "the server's log is rotated and shipped by the plane"
	whyLibraries   = "libraries run inside the server, with all its rights"
	whyDeveloper   = "it is meant for developing PostgreSQL itself"
	whyFixed       = "it is fixed when the server or its data is made"
	whyStart       = "the instance's keeper supervises the server"
)

// managed gives why Orrery keeps a parameter to itself, "" where it does not. The same list guards Configure, which must
// never write such a parameter even where nobody checked before.
func managed(name string) string {
	if why, ok := managedNames[name]; ok {
		return why
	}
	for _, p := range managedPrefixes {
		if strings.HasPrefix(name, p.prefix) {
			return p.why
		}
	}
	return ""
}

var managedPrefixes = []struct{ prefix, why string }{
	{"ssl", whyTLS}, {"krb_", whyAccess}, {"gss_", whyAccess}, {"oauth_", whyAccess}, {"unix_socket_", whyNetwork}, {"bonjour", whyNetwork},
	{"archive_", whyArchive}, {"recovery_", whyReplication}, {"primary_", whyReplication}, {"syslog_", whyLog}, {"debug_io", whyDeveloper},
	{"trace_", whyDeveloper}, {"orrery.", whyFiles},
}

var managedNames = map[string]string{
	"listen_addresses": whyNetwork, "port": whyNetwork, "reserved_connections": whyAccess, "superuser_reserved_connections": whyAccess,
	"password_encryption": whyAccess, "db_user_namespace": whyAccess, "authentication_timeout": whyAccess,
	"createrole_self_grant": whyAccess, "event_triggers": whyAccess, "row_security": whyAccess, "scram_iterations": whyAccess,
	"data_directory": whyFiles, "config_file": whyFiles, "hba_file": whyFiles, "ident_file": whyFiles, "external_pid_file": whyFiles,
	"cluster_name": whyFiles, "stats_temp_directory": whyFiles, "allow_alter_system": whyFiles, "update_process_title": whyFiles,
	"hot_standby": whyReplication, "synchronous_standby_names": whyReplication, "synchronized_standby_slots": whyReplication,
	"max_wal_senders": whyReplication, "max_replication_slots": whyReplication, "max_slot_wal_keep_size": whyReplication,
	"idle_replication_slot_timeout": whyReplication, "wal_receiver_create_temp_slot": whyReplication, "promote_trigger_file": whyReplication,
	"sync_replication_slots": whyReplication, "wal_retrieve_retry_interval": whyReplication, "wal_receiver_status_interval": whyReplication,
	"restore_command": whyArchive, "wal_keep_size": whyReplication, "track_commit_timestamp": whyReplication,
	"fsync": whyDurability, "full_page_writes": whyDurability, "wal_sync_method": whyDurability, "data_sync_retry": whyDurability,
	"zero_damaged_pages": whyDurability, "ignore_checksum_failure": whyDurability, "ignore_system_indexes": whyDurability,
	"ignore_invalid_pages": whyDurability, "wal_consistency_checking": whyDeveloper,
	"logging_collector": whyLog, "log_destination": whyLog, "log_directory": whyLog, "log_filename": whyLog, "log_file_mode": whyLog,
	"log_rotation_age": whyLog, "log_rotation_size": whyLog, "log_truncate_on_rotation": whyLog, "log_line_prefix": whyLog,
	"event_source": whyLog, "lc_messages": whyLog, "log_timezone": whyLog,
	"shared_preload_libraries": whyLibraries, "session_preload_libraries": whyLibraries, "local_preload_libraries": whyLibraries,
	"dynamic_library_path": whyLibraries, "extension_control_path": whyLibraries, "jit_provider": whyLibraries,
	"allow_system_table_mods": whyDeveloper, "allow_in_place_tablespaces": whyDeveloper, "jit_debugging_support": whyDeveloper,
	"jit_profiling_support": whyDeveloper, "post_auth_delay": whyDeveloper, "pre_auth_delay": whyDeveloper,
	"remove_temp_files_after_crash": whyDeveloper, "send_abort_for_crash": whyStart, "send_abort_for_kill": whyStart, "restart_after_crash": whyStart,
	"exit_on_error": whyStart, "transaction_read_only": whyStart, "default_transaction_read_only": whyReplication,
	"shared_memory_type": whyStart, "dynamic_shared_memory_type": whyStart,
}
