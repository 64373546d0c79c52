package postgres

import (
	"fmt"
	"strconv"
)

// size is what settings are tuned from.
type size struct {
	cpuMilli, memoryMiB, storageGiB int64
}

// setting is a line of the configuration file.
type setting struct{ name, value string }

// tune gives the settings that follow from a plan. A user's own parameters come after them and win. It is pure; the
// golden file shows what it gives.
func tune(z size, major int) []setting {
	mem, storageMB := max(z.memoryMiB, 64), max(z.storageGiB, 1)*1024
	cores := max((z.cpuMilli+999)/1000, 1)
	shared := clamp(mem/4, 16, 32*1024)
	connections := clamp(mem/10/5*5, 50, 1000)
	// Each connection may use several times work_mem; a third of what the buffers leave is never used up at once.
	work := clamp((mem-shared)*1024/(connections*3), 4096, 256*1024)
	workers := clamp(cores, 2, 64)
	list := []setting{
		// Memory.
		{"shared_buffers", mb(shared)},
		{"effective_cache_size", mb(mem * 3 / 4)},
		{"work_mem", fmt.Sprintf("%dkB", work)},
		{"maintenance_work_mem", mb(clamp(mem/16, 16, 2048))},
		{"max_connections", num(connections)},
		{"huge_pages", "try"},
		// Written although they are the defaults: replicas may have to raise them (see raiseForReplay), and what is taken
		// out of the file wants a restart even where nothing changes by it.
		{"max_locks_per_transaction", "64"},
		{"max_prepared_transactions", "0"},
		// Processors. A plan of one core gains nothing from parallel queries.
		{"max_worker_processes", num(8 + workers)},
		{"max_parallel_workers", num(workers)},
		{"max_parallel_workers_per_gather", num(clamp(cores/2, 0, 4))},
		{"max_parallel_maintenance_workers", num(clamp(cores/2, 0, 4))},
		// Disks are solid-state ones.
		{"random_page_cost", "1.1"},
		{"effective_io_concurrency", "200"},
		// WAL: a twentieth of the disk between checkpoints; a slot that nobody reads may hold back a fifth of it and no
		// more, so that a lost replica cannot fill the disk of its primary.
		{"max_wal_size", mb(clamp(storageMB/20, 256, 16*1024))},
		{"min_wal_size", mb(clamp(storageMB/80, 80, 2048))},
		{"max_slot_wal_keep_size", mb(max(storageMB/5, 256))},
		{"wal_compression", "on"},
		{"wal_buffers", mb(clamp(shared/32, 1, 16))},
		{"checkpoint_timeout", "10min"},
		{"checkpoint_completion_target", "0.9"},
		// Vacuum earlier and faster than the defaults, which are for spinning disks.
		{"autovacuum_max_workers", "3"},
		{"autovacuum_vacuum_scale_factor", "0.1"},
		{"autovacuum_analyze_scale_factor", "0.05"},
		{"autovacuum_vacuum_cost_limit", "1000"},
		// What a person needs to see afterwards.
		{"track_io_timing", "on"},
		{"log_checkpoints", "on"},
		{"log_lock_waits", "on"},
		{"log_temp_files", "10MB"},
		{"log_autovacuum_min_duration", "10min"},
		// Dead members are noticed in half a minute, dead clients in two.
		{"wal_sender_timeout", "30s"},
		{"wal_receiver_timeout", "30s"},
		{"tcp_keepalives_idle", "60"},
		{"tcp_keepalives_interval", "15"},
		{"tcp_keepalives_count", "4"},
	}
	if major >= 18 {
		list = append(list, setting{"io_method", "worker"})
	}
	return list
}

func clamp(n, low, high int64) int64 { return min(max(n, low), high) }
func mb(n int64) string              { return strconv.FormatInt(n, 10) + "MB" }
func num(n int64) string             { return strconv.FormatInt(n, 10) }
