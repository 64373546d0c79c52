package valkey

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Observe asks INFO. The lineage is the datastore's ID: a replica takes its primary's dataset over by itself, whatever
// its own was, and the server's replication ID changes with each start of a primary, so it cannot serve for one.
func (s *server) Observe(ctx context.Context) (engine.Observation, error) {
	var obs engine.Observation
	err := s.call(ctx, func(c *redis.Client) error {
		text, err := c.Do(ctx, "info", "server", "replication", "memory").Text()
		if err != nil {
			return fmt.Errorf("ask for info: %w", err)
		}
		info := parseInfo(text)
		obs, err = s.observation(info)
		if err != nil {
			return err
		}
		obs.PendingRestart, err = s.pendingRestart(ctx, c, info["run_id"])
		return err
	})
	return obs, err
}

func replication(ctx context.Context, c *redis.Client) (map[string]string, error) {
	text, err := c.Do(ctx, "info", "replication").Text()
	return parseInfo(text), err
}

func parseInfo(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			m[name] = value
		}
	}
	return m
}

func (s *server) observation(info map[string]string) (engine.Observation, error) {
	known, err := s.knownMembers()
	if err != nil {
		return engine.Observation{}, err
	}
	number := func(name string) uint64 {
		n, _ := strconv.ParseUint(info[name], 10, 64)
		return n
	}
	obs := engine.Observation{
		Role: orrery.RolePrimary, Version: info["redis_version"], DataBytes: int64(number("used_memory")),
		Position: number("master_repl_offset"), SystemID: known.Datastore,
	}
	if v := info["valkey_version"]; v != "" {
		obs.Version = v // redis_version is then the one it is compatible with
	}
	obs.StartedAt = s.startedAt(info)
	if info["role"] == "slave" {
		obs.Role = orrery.RoleReplica
		obs.Streaming = info["master_link_status"] == "up" && info["master_sync_in_progress"] == "0"
		if obs.Streaming {
			obs.Upstream = known.Instances[net.JoinHostPort(info["master_host"], info["master_port"])]
		}
		obs.Position = number("slave_read_repl_offset")
		if done := number("slave_repl_offset"); done < obs.Position {
			obs.LagBytes = obs.Position - done
		}
		return obs, nil
	}
	_, sync := info["min_slaves_good_slaves"] // only there while min-replicas-to-write is on
	for i := 0; ; i++ {
		line, ok := info["slave"+strconv.Itoa(i)]
		if !ok {
			break
		}
		f := map[string]string{}
		for _, kv := range strings.Split(line, ",") {
			k, v, _ := strings.Cut(kv, "=")
			f[k] = v
		}
		id := known.Instances[net.JoinHostPort(f["ip"], f["port"])]
		if id == "" || f["state"] != "online" {
			continue
		}
		obs.Replicas = append(obs.Replicas, id)
		if lag, err := strconv.Atoi(f["lag"]); sync && err == nil && lag <= 3 {
			obs.Sync = append(obs.Sync, id)
		}
	}
	slices.Sort(obs.Replicas)
	slices.Sort(obs.Sync)
	return obs, nil
}

// startedAt is the start of the process, which does not move with the clock as now minus the uptime does.
func (s *server) startedAt(info map[string]string) time.Time {
	fi, err := os.Stat("/proc/" + info["process_id"])
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime().UTC().Truncate(time.Millisecond)
}

// knownMembers gives the other members as Configure wrote them down.
func (s *server) knownMembers() (*members, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members != nil {
		return s.members, nil
	}
	data, err := os.ReadFile(s.path("conf", "members.json"))
	if err != nil {
		return nil, fmt.Errorf("read the members: %w", err)
	}
	known := &members{}
	if err := json.Unmarshal(data, known); err != nil {
		return nil, fmt.Errorf("read the members: %w", err)
	}
	s.members = known
	return known, nil
}

// pendingCache keeps what a comparison found until the server or its configuration file is another.
type pendingCache struct {
	runID   string
	written time.Time
	names   []string
}

// pendingRestart names the settings whose value in the configuration file is not the running one.
func (s *server) pendingRestart(ctx context.Context, c *redis.Client, runID string) ([]string, error) {
	fi, err := os.Stat(s.path("conf", "valkey.conf"))
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	cached := s.pending
	s.mu.Unlock()
	if cached.runID == runID && cached.written.Equal(fi.ModTime()) {
		return cached.names, nil
	}
	names, err := s.lacks(ctx, c)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.pending = pendingCache{runID: runID, written: fi.ModTime(), names: names}
	s.mu.Unlock()
	return names, nil
}

// lacks compares what is taken on at a start only.
func (s *server) lacks(ctx context.Context, c *redis.Client) ([]string, error) {
	conf, err := s.readConf()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range restartOnly {
		want, ok := conf[name]
		if !ok {
			continue
		}
		running, err := c.ConfigGet(ctx, name).Result()
		if err != nil {
			return nil, fmt.Errorf("ask for the setting %s: %w", name, err)
		}
		if running[name] != want {
			names = append(names, name)
		}
	}
	return names, nil
}
