package cli

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) *time.Time {
	t := start.Add(time.Duration(seconds * float64(time.Second)))
	return &t
}

// creating is a job in the middle of its work.
func creating() *orrery.Job {
	return &orrery.Job{
		Meta: orrery.Meta{ID: "jo-0123456789abcdef", CreatedAt: start}, Kind: "datastore.create", Object: "ds-0123456789abcdef",
		ObjectName: "demo", State: orrery.JobRunning, Cursor: 2, Progress: 50, StartedAt: at(0), RequestedBy: "admin", Owner: "server-1",
		Steps: []orrery.JobStep{
			{Title: "Choose hosts", State: orrery.StepDone, Attempts: 1, StartedAt: at(0), EndedAt: at(0.004)},
			{Title: "Make places", State: orrery.StepDone, Attempts: 1, StartedAt: at(0.004), EndedAt: at(0.3)},
			{Title: "Start the primary", State: orrery.StepRunning, Attempts: 2, StartedAt: at(0.3),
				Log: []orrery.LogLine{{Time: *at(0.5), Message: "the port is taken;\x1b[2J trying another"}, {Time: *at(1.2), Message: "starting"}}},
			{Title: "Start the replicas", State: orrery.StepPending},
		},
	}
}

func succeeded() *orrery.Job {
	j := creating()
	j.State, j.Progress, j.EndedAt = orrery.JobSucceeded, 100, at(3.2)
	j.Steps[2].State, j.Steps[2].EndedAt = orrery.StepDone, at(2)
	j.Steps[3] = orrery.JobStep{Title: "Start the replicas", State: orrery.StepDone, Attempts: 1, StartedAt: at(2), EndedAt: at(3.2)}
	return j
}

func undoing() *orrery.Job {
	j := creating()
	j.State, j.Cursor = orrery.JobUndoing, 1
	j.Error = &orrery.JobError{Code: "port_taken", Message: "no port is free", Step: "Start the primary", Hint: "Stop what holds the ports."}
	j.Steps[2].State, j.Steps[2].EndedAt = orrery.StepFailed, at(2)
	return j
}

func failed() *orrery.Job {
	j := undoing()
	j.State, j.EndedAt = orrery.JobFailed, at(2.5)
	j.Steps[0].State, j.Steps[1].State = orrery.StepUndone, orrery.StepUndone
	return j
}

func TestFrames(t *testing.T) {
	now := *at(61)
	draw := func(j *orrery.Job, notice string, width, height int) string {
		return strings.Join(frame(j, notice, now, 3, width, height), "\n") + "\n"
	}
	queued := creating()
	queued.State, queued.Steps, queued.StartedAt = orrery.JobQueued, nil, nil
	golden(t, "frame-queued", draw(queued, "", 80, 24))
	golden(t, "frame-running", draw(creating(), "", 80, 24))
	golden(t, "frame-trouble", draw(creating(), "the server cannot be reached; trying again", 80, 24))
	golden(t, "frame-narrow", draw(creating(), "", 30, 24))
	golden(t, "frame-low", draw(creating(), "", 80, 6))
	golden(t, "frame-undoing", draw(undoing(), "", 80, 24))
	golden(t, "frame-succeeded", draw(succeeded(), "", 80, 24))
}

func TestFramesFitTheTerminal(t *testing.T) {
	j := creating()
	for range 40 {
		j.Steps = append(j.Steps, orrery.JobStep{Title: strings.Repeat("very long title ", 9), State: orrery.StepPending})
	}
	for width := 1; width < 100; width += 7 {
		for height := 1; height < 50; height += 3 {
			lines := frame(j, "", *at(3), 0, width, height)
			if len(lines) > max(height, 3) {
				t.Errorf("%dx%d: %d lines", width, height, len(lines))
			}
			for _, l := range lines {
				if n := utf8.RuneCountInString(l); n > width {
					t.Errorf("%dx%d: a line of %d: %q", width, height, n, l)
				}
			}
		}
	}
}

func TestNews(t *testing.T) {
	now := *at(61)
	queued := creating()
	queued.State = orrery.JobQueued
	for i := range queued.Steps {
		queued.Steps[i] = orrery.JobStep{Title: queued.Steps[i].Title, State: orrery.StepPending}
	}
	var all []string
	var before *orrery.Job
	for _, j := range []*orrery.Job{queued, creating(), creating(), succeeded()} {
		all = append(all, news(before, j, now)...)
		before = j
	}
	golden(t, "news-succeeded", strings.Join(all, "\n")+"\n")
	all, before = nil, creating()
	for _, j := range []*orrery.Job{undoing(), failed(), failed()} {
		all = append(all, news(before, j, now)...)
		before = j
	}
	golden(t, "news-failed", strings.Join(all, "\n")+"\n")
}

func TestScreenOverwritesWhatItDrew(t *testing.T) {
	var out strings.Builder
	width := 80
	s := &screen{w: &out, size: func() (int, int) { return width, 24 }}
	s.draw([]string{"one", "two"})
	if want := "\rone\x1b[K\ntwo\x1b[K\n\x1b[J"; out.String() != want {
		t.Errorf("first: %q", out.String())
	}
	out.Reset()
	s.draw([]string{strings.Repeat("x", 60)})
	if want := "\x1b[2A\r" + strings.Repeat("x", 60) + "\x1b[K\n\x1b[J"; out.String() != want {
		t.Errorf("second: %q", out.String())
	}
	out.Reset()
	width = 25 // the old line takes three now
	s.draw([]string{"y"})
	if !strings.HasPrefix(out.String(), "\x1b[3A\r") {
		t.Errorf("narrower: %q", out.String())
	}
}

func TestErrorTexts(t *testing.T) {
	texts := ""
	for _, err := range []error{
		orrery.Invalid("spec.parameters.work_mem", "12 is below 64").WithHint("Give 64 to 2147483647 kB."),
		orrery.Errorf(orrery.KindUnavailable, "the server cannot be reached").WithCause(errors.New("connection refused")),
		&client.JobFailed{Job: failed()},
		&client.JobFailed{Job: &orrery.Job{Meta: orrery.Meta{ID: "jo-1"}, Kind: "datastore.delete", ObjectName: "demo", State: orrery.JobStuck, Alarm: "host rack1 is away"}},
		&detached{job: "jo-1", why: "Detached.", usual: true},
		&badUsage{message: "the datastore is missing", usage: "orrery datastore show <datastore>", hint: "Run it."},
		errors.New("disk on fire"),
		&programExit{code: 3},
	} {
		texts += errorText(err) + "--\n"
	}
	golden(t, "errors", texts)
}

func TestJobText(t *testing.T) {
	golden(t, "job-running", jobText(creating(), *at(61)))
	golden(t, "job-failed", jobText(failed(), *at(3600)))
}

// demo is a datastore with two instances.
func demo() (*orrery.Datastore, []*orrery.Instance) {
	d := &orrery.Datastore{
		Meta: orrery.Meta{ID: "ds-0123456789abcdef", Name: "demo", CreatedAt: start, Generation: 3},
		Spec: orrery.DatastoreSpec{Engine: "postgres", Version: "15", Plan: "small", StorageGiB: 10, Instances: 2, Replication: "async",
			Parameters:     map[string]string{"work_mem": "16MB", "log_min_duration_statement": "250ms"},
			Users:          []orrery.User{{Name: "app", Access: "admin"}, {Name: "report", Access: "readonly"}},
			Databases:      []orrery.Database{{Name: "app", Owner: "app"}},
			TrustedSources: []orrery.TrustedSource{{CIDR: "10.0.0.0/8"}}, DeletionProtection: true},
		Status: orrery.DatastoreStatus{State: orrery.DatastoreDegraded, Message: "demo-2 is behind", Primary: "in-1", ReadyInstances: 1,
			Endpoints: []orrery.Endpoint{{Instance: "in-1", Role: orrery.EndpointPrimary, Address: "127.0.0.1", Port: 17000}}},
	}
	members := []*orrery.Instance{
		{Meta: orrery.Meta{ID: "in-1", Name: "demo-1"}, Spec: orrery.InstanceSpec{Host: "ho-1", Plan: "small", Role: "primary"},
			Status: orrery.InstanceStatus{
				Place:    orrery.PlaceStatus{State: orrery.PlaceRunning, Address: "127.0.0.1", Port: 17000, KeeperPID: 41, Limits: "cgroup v2"},
				Database: orrery.DatabaseStatus{State: orrery.DatabaseRunning, Role: "primary", Version: "15.18", PID: 42, StartedAt: at(0)}}},
		{Meta: orrery.Meta{ID: "in-2", Name: "demo-2"}, Spec: orrery.InstanceSpec{Host: "ho-1", Plan: "small", Role: "replica"},
			Status: orrery.InstanceStatus{Place: orrery.PlaceStatus{State: orrery.PlaceCreating}}},
	}
	return d, members
}

func TestDatastoreText(t *testing.T) {
	a := &app{Config: Config{Now: func() time.Time { return *at(7200) }}}
	d, members := demo()
	table := instanceTable(members)
	golden(t, "datastore", a.datastoreText(d, members)+"\n"+table.render(false)+"\n"+table.render(true))
	golden(t, "instance", a.instanceText(members[0])+"\n"+a.instanceText(members[1]))
}

func TestCreatedText(t *testing.T) {
	d, _ := demo()
	info := &orrery.ConnectionInfo{User: "app", Database: "app", CA: "…", Strings: []orrery.ConnectionString{
		{Name: "primary", Text: "postgresql://app:{password}@127.0.0.1:17000/app?sslmode=verify-full&sslrootcert={ca}"},
		{Name: "cli", Text: "psql …"},
	}}
	ch := &client.Changed{Datastore: d, Credentials: &client.Credentials{Username: "app", Password: "p@ss w/rd"}}
	golden(t, "created", createdText(ch, info, "/home/me/.config/orrery/ca/ds-0123456789abcdef.pem", false))
}

func TestStatusText(t *testing.T) {
	d, _ := demo()
	stores := []*orrery.Datastore{d}
	for range 25 {
		stores = append(stores, &orrery.Datastore{Meta: orrery.Meta{Name: "x"}, Status: orrery.DatastoreStatus{State: orrery.DatastoreAvailable}})
	}
	hosts := []*orrery.Host{{Status: orrery.HostStatus{Connected: true}}, {}}
	got := statusText("https://127.0.0.1:7600", &client.Status{Version: "v0.1.0", Server: "server-1", Writable: true}, hosts, stores, []*orrery.Job{{}}, []*orrery.Job{{}})
	golden(t, "status", got+"--\n"+statusText("https://127.0.0.1:7600", &client.Status{Message: "the disk is nearly full", Hint: "Free some."}, nil, nil, nil, nil))
}

func TestAlike(t *testing.T) {
	names := []string{"demo", "shop", "shop-test", "cache"}
	for typed, want := range map[string]string{"dmeo": "demo", "Demo": "demo", "shp": "shop", "sh": "shop shop-test", "xyz": "", "": ""} {
		if got := strings.Join(alike(typed, names), " "); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
}

func TestUnits(t *testing.T) {
	for got, want := range map[string]string{
		age(*at(90), start): "90s", age(*at(3600), start): "60m", age(*at(90000), start): "25h", age(*at(864000), start): "10d",
		age(start, *at(5)): "0s", age(start, time.Time{}): "",
		took(4 * time.Millisecond): "0.00s", took(3210 * time.Millisecond): "3.2s", took(65 * time.Second): "1m5s",
		cores(500): "0.5", cores(16000): "16", mib(512): "512 MiB", mib(1536): "1.5 GiB", mib(1000): "1000 MiB",
		tokenID("orr_abc_secret"): "orr_abc_…", tokenID("x"): "…",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
