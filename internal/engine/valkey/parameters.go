package valkey

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
)

// fixed describes the settings that take a restart: the running server does not tell their ranges.
var fixed = map[string]orrery.Parameter{
	"databases":           {Type: orrery.ParameterInt, Min: "1", Max: "10000"},
	"disable-thp":         {Type: orrery.ParameterBool},
	"io-threads":          {Type: orrery.ParameterInt, Min: "1", Max: "128"},
	"io-threads-do-reads": {Type: orrery.ParameterBool},
	"rdbchecksum":         {Type: orrery.ParameterBool},
	"tcp-backlog":         {Type: orrery.ParameterInt, Min: "1", Max: "65535"},
}

var descriptions = map[string]string{
	"databases": "How many numbered databases there are.", "maxmemory": "Memory for data; follows the plan where it is not given.",
	"maxmemory-policy": "What is evicted when maxmemory is reached.", "timeout": "Seconds after which an idle client is cut off; 0 is never.",
	"maxclients": "How many clients may be connected.", "appendfsync": "When the append-only file is synced to disk.",
	"save": "When snapshots are taken: pairs of seconds and changes.", "notify-keyspace-events": "Which events of keys are published.",
	"slowlog-log-slower-than": "Microseconds after which a command is logged as slow.", "slowlog-max-len": "How many slow commands are kept.",
	"io-threads": "Threads that write to and read from clients.", "activedefrag": "Defragment memory while running.",
	"hz": "How often background tasks run in a second.", "repl-backlog-size": "How much a replica may miss before it copies everything.",
	"lazyfree-lazy-eviction": "Free evicted memory in the background.", "tcp-keepalive": "Seconds between TCP keep-alives.",
}

// Parameters asks a throw-away server. What kind of value a setting takes, its choices and its range are read from the
// answers to values that it must refuse, so they are this version's own.
func (s *server) Parameters(ctx context.Context) ([]orrery.Parameter, error) {
	var out []orrery.Parameter
	err := s.throwAway(ctx, nil, func(c *redis.Client) error {
		defaults, err := c.ConfigGet(ctx, "*").Result()
		if err != nil {
			return fmt.Errorf("list the settings: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(defaults)) {
			p, err := describe(ctx, c, name, defaults[name])
			if err != nil {
				return err
			}
			out = append(out, p)
		}
		return nil
	})
	return out, err
}

var (
	enumRE  = regexp.MustCompile(`argument\(s\) must be one of the following: (.*)$`)
	rangeRE = regexp.MustCompile(`must be between (-?\d+) and (-?\d+) inclusive`)
)

func describe(ctx context.Context, c *redis.Client, name, value string) (orrery.Parameter, error) {
	p := orrery.Parameter{Name: name, Type: orrery.ParameterString, Default: value, Description: descriptions[name], Category: category(name)}
	if why, is := managedBy(name); is {
		p.Managed, p.Default = why, ""
		return p, nil
	}
	if strings.Contains(name, "slave") || strings.Contains(name, "ziplist") || name == "lua-time-limit" {
		p.Managed = "an old name of another setting"
		return p, nil
	}
	if f, ok := fixed[name]; ok {
		p.Type, p.Min, p.Max, p.Restart = f.Type, f.Min, f.Max, true
		return p, nil
	}
	try := func(v string) (string, error) {
		err := c.ConfigSet(ctx, name, v).Err()
		if err == nil {
			return "", c.ConfigSet(ctx, name, value).Err()
		}
		if _, said := err.(redis.Error); !said { //nolint:errorlint // go-redis gives the server's own word unwrapped
			return "", fmt.Errorf("try the setting %s: %w", name, err)
		}
		return err.Error(), nil
	}
	says, err := try("?")
	if err != nil {
		return p, err
	}
	tries := []string{}
	switch {
	case strings.Contains(says, "must be 'yes' or 'no'"):
		p.Type = orrery.ParameterBool
	case enumRE.MatchString(says):
		p.Type, p.Values = orrery.ParameterEnum, strings.Split(enumRE.FindStringSubmatch(says)[1], ", ")
	case strings.Contains(says, "couldn't be parsed into an integer"):
		p.Type = orrery.ParameterInt
		tries = []string{"9223372036854775807", "-9223372036854775808"}
	case strings.HasSuffix(says, "must be a memory value"):
		p.Type, p.Unit = orrery.ParameterInt, "B"
		tries = []string{"9223372036854775807", "0"}
	case strings.Contains(says, "can't set"):
		p.Managed = "it cannot be changed once the server runs"
	}
	for _, v := range tries {
		if says, err = try(v); err != nil {
			return p, err
		}
		if m := rangeRE.FindStringSubmatch(says); m != nil {
			p.Min, p.Max = m[1], m[2]
			break
		}
	}
	return p, nil
}

// category is the family that a setting's name begins with.
func category(name string) string {
	for _, c := range []struct{ prefix, name string }{
		{"tls-", "TLS"}, {"repl", "Replication"}, {"min-replicas", "Replication"}, {"maxmemory", "Memory"}, {"active", "Memory"}, {"lazyfree", "Memory"},
		{"lfu-", "Memory"}, {"append", "Persistence"}, {"aof", "Persistence"}, {"auto-aof", "Persistence"}, {"rdb", "Persistence"}, {"save", "Persistence"},
		{"slowlog", "Monitoring"}, {"latency", "Monitoring"}, {"cluster-", "Cluster"}, {"hash-", "Data types"}, {"list-", "Data types"},
		{"set-max", "Data types"}, {"zset-", "Data types"}, {"stream-", "Data types"}, {"hll-", "Data types"}, {"client", "Clients"}, {"maxclients", "Clients"},
		{"timeout", "Clients"}, {"tcp-", "Clients"}, {"io-threads", "Threads"},
	} {
		if strings.HasPrefix(name, c.prefix) {
			return c.name
		}
	}
	return "General"
}
