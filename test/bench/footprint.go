package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// postgresBin is the folder of the newest PostgreSQL of this machine.
func postgresBin() string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(dirs) == 0 {
		return "/usr/lib/postgresql/15/bin"
	}
	return dirs[len(dirs)-1]
}

// usage is what a process has used.
type usage struct {
	rssKiB, anonKiB int64
	cpu             time.Duration
}

func usageOf(pid int) (usage, error) {
	var u usage
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			u.rssKiB = n
		case "RssAnon:":
			u.anonKiB = n
		}
	}
	b, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	u.cpu = time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
	return u, nil
}

// benchFootprint: memory of each process, and CPU of the whole idle plane with twenty instances.
func benchFootprint(ctx context.Context, o options, r *report) error {
	instances, watch := 20, 60*time.Second
	if o.short {
		instances, watch = 4, 10*time.Second
	}
	b, err := start(ctx, o, 0)
	if err != nil {
		return err
	}
	defer b.close(ctx)
	b.plan = tinyPlan
	idle, err := usageOf(b.plane.PID())
	if err != nil {
		return err
	}
	r.add(row{name: "memory: server and agent in one process, idle", value: mib(idle)})
	if _, err := together(instances, func(i int) error { _, err := b.create(ctx, "idle-"+strconv.Itoa(i), 1); return err }); err != nil {
		return err
	}
	pause(ctx, 10*time.Second) // let what follows a creation end
	keepers, err := b.plane.Keepers()
	if err != nil {
		return err
	}
	pids := []int{b.plane.PID()}
	for _, k := range keepers {
		pids = append(pids, k.PID)
	}
	before, err := total(pids)
	if err != nil {
		return err
	}
	begin := time.Now()
	pause(ctx, watch)
	after, err := total(pids)
	if err != nil {
		return err
	}
	percent := 100 * (after.cpu - before.cpu).Seconds() / time.Since(begin).Seconds()
	r.add(row{name: fmt.Sprintf("CPU: idle plane with %d instances", len(keepers)), value: fmt.Sprintf("%.1f %% of a core", percent), target: "≤ 2 %", met: percent <= 2})
	var rss, anon series
	for _, k := range keepers {
		u, err := usageOf(k.PID)
		if err != nil {
			return err
		}
		rss, anon = append(rss, float64(u.rssKiB)/1024), append(anon, float64(u.anonKiB)/1024)
	}
	r.add(row{name: "memory: keeper", value: fmt.Sprintf("%.1f MiB (%.1f–%.1f), own %.1f", rss.median(), rss.quantile(0), rss.quantile(1), anon.median()),
		target: "≤ 25 MiB", met: rss.quantile(1) <= 25})
	u, err := usageOf(b.plane.PID())
	if err != nil {
		return err
	}
	r.add(row{name: fmt.Sprintf("memory: server and agent with %d instances", len(keepers)), value: mib(u)})
	return nil
}

func total(pids []int) (usage, error) {
	var t usage
	for _, pid := range pids {
		u, err := usageOf(pid)
		if err != nil {
			return t, err
		}
		t.cpu += u.cpu
		t.rssKiB += u.rssKiB
	}
	return t, nil
}

func mib(u usage) string {
	return fmt.Sprintf("%.0f MiB resident, %.0f its own", float64(u.rssKiB)/1024, float64(u.anonKiB)/1024)
}
