package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// stat is what the driver needs of /proc/<pid>/stat (proc(5)).
type stat struct {
	pid, ppid, session int
	zombie             bool
	ticks              uint64 // start time in clock ticks after boot
}

// readStat gives an error where there is no such process.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The second field is the program's name in brackets and may hold anything.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return stat{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	s := stat{pid: pid, zombie: f[0] == "Z" || f[0] == "X"}
	s.ppid, _ = strconv.Atoi(f[1])
	s.session, _ = strconv.Atoi(f[3])
	if s.ticks, err = strconv.ParseUint(f[19], 10, 64); err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

// allStats reads every process of the host, in no order. Zombies are left out: they are dead.
func allStats() ([]stat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && !s.zombie {
			all = append(all, s)
		}
	}
	return all, nil
}

// hasUID tells whether any of the process's user IDs (real, effective, saved, file system) is uid.
func hasUID(pid, uid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	want := strconv.Itoa(uid)
	for _, id := range strings.Fields(line) {
		if id == want {
			return true
		}
	}
	return false
}

// hasEnv tells whether the process was started with the variable. A process may have overwritten its environment
// since, as PostgreSQL does to show its title.
func hasEnv(pid int, variable string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if string(kv) == variable {
			return true
		}
	}
	return false
}

// worksIn tells whether the process's working folder is dir or below it.
func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
	return err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/"))
}
