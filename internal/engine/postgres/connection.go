package postgres

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
)

// Connection gives URIs for libpq and its like, a URL for JDBC, and a command line.
func (*Driver) Connection(_ orrery.DatastoreSpec, endpoints []orrery.Endpoint, user, database string) []orrery.ConnectionString {
	var primary, replicas, all []string
	for _, e := range endpoints {
		hostPort := net.JoinHostPort(e.Address, strconv.Itoa(e.Port))
		all = append(all, hostPort)
		if e.Role == orrery.EndpointPrimary {
			primary = append(primary, hostPort)
		} else {
			replicas = append(replicas, hostPort)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if len(primary) == 0 {
		primary = all
	}
	uri := func(hosts []string, attributes string) string {
		return fmt.Sprintf("postgresql://%s:{password}@%s/%s?%ssslmode=verify-full&sslrootcert={ca}",
			escape(user), strings.Join(hosts, ","), escape(database), attributes)
	}
	// Replicas first: libpq takes the first that answers the demand.
	readers := append(append([]string{}, replicas...), primary...)
	readOnly := "target_session_attrs=prefer-standby&"
	if len(replicas) == 0 {
		readOnly = ""
	}
	return []orrery.ConnectionString{
		{Name: "primary", Text: uri(primary[:1], ""), Doc: "Reads and writes, at the primary as it is now."},
		{Name: "all_hosts", Text: uri(all, "target_session_attrs=read-write&"), Doc: "Reads and writes; finds the primary among all hosts, also after a failover. libpq 10 and newer, pgx, npgsql and others."},
		{Name: "read_only", Text: uri(readers, readOnly), Doc: "Reads at a replica where one is there, else at the primary; what it reads may be a moment old. libpq 14 and newer."},
		{Name: "jdbc", Text: fmt.Sprintf("jdbc:postgresql://%s/%s?user=%s&password={password}&targetServerType=primary&sslmode=verify-full&sslrootcert={ca}",
			strings.Join(all, ","), escape(database), escape(user)), Doc: "Java: reads and writes; finds the primary among all hosts."},
		{Name: "cli", Text: "PGPASSWORD='{password}' psql " + shellQuote(fmt.Sprintf("postgresql://%s@%s/%s?sslmode=verify-full&sslrootcert={ca}",
			escape(user), primary[0], escape(database))), Doc: "A shell on the primary."},
	}
}

// escape percent-encodes all but unreserved characters (RFC 3986), so that the result is right in each part of a URI.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
