package job

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// queued makes a job; n is its order of creation.
func queued(n int, project, object string) *orrery.Job {
	return &orrery.Job{Meta: orrery.Meta{ID: fmt.Sprintf("jo-%03d", n), Project: project, CreatedAt: start.Add(time.Duration(n) * time.Second)},
		Kind: "k", Object: object, State: orrery.JobQueued}
}

func testQueue(limit int, jobs ...*orrery.Job) *queue {
	q := newQueue(func(j *orrery.Job) bool { return j.Kind != "unknown" }, func(k string) bool { return k == "delete" }, limit)
	for _, j := range jobs {
		q.setJob(j.ID, j, start)
	}
	return q
}

func drain(q *queue, now time.Time) []string {
	var out []string
	for id := q.next(now); id != ""; id = q.next(now) {
		out = append(out, id)
	}
	return out
}

func with(j *orrery.Job, change func(*orrery.Job)) *orrery.Job {
	c := *j
	change(&c)
	return &c
}

func TestQueueOneMutatingJobForAnObject(t *testing.T) {
	first, second := queued(1, "p", "ds-1"), queued(2, "p", "ds-1")
	reader := with(queued(3, "p", "ds-1"), func(j *orrery.Job) { j.ReadOnly = true })
	q := testQueue(10, second, reader, first)
	got := drain(q, start)
	if slices.Sort(got); !slices.Equal(got, []string{"jo-001", "jo-003"}) {
		t.Fatalf("handed out %v, want the older mutating job and the read-only one", got)
	}
	// The first runs now: it has claim and lock.
	q.setLock("ds-1", "jo-001", start)
	q.setClaim("jo-001", true, start)
	q.setJob("jo-001", with(first, func(j *orrery.Job) { j.State = orrery.JobRunning }), start)
	if got := drain(q, start); len(got) != 0 {
		t.Fatalf("handed out %v while the object is held", got)
	}
	// It ends: its state, claim and lock change in one transaction and are told one by one.
	q.setJob("jo-001", with(first, func(j *orrery.Job) { j.State = orrery.JobSucceeded }), start)
	q.setLock("ds-1", "", start)
	q.done("jo-001", start)
	if got := drain(q, start); !slices.Equal(got, []string{"jo-002"}) {
		t.Fatalf("handed out %v, want the second", got)
	}
}

func TestQueueResumesWhatHasNoClaim(t *testing.T) {
	running := with(queued(1, "p", "ds-1"), func(j *orrery.Job) { j.State = orrery.JobRunning })
	q := testQueue(10, queued(0, "p", "ds-1"))
	q.setLock("ds-1", running.ID, start)
	q.setJob(running.ID, running, start)
	q.setClaim(running.ID, true, start)
	if got := drain(q, start); len(got) != 0 {
		t.Fatalf("handed out %v while another server has the claim", got)
	}
	q.setClaim(running.ID, false, start)
	if got := drain(q, start); !slices.Equal(got, []string{running.ID}) {
		t.Fatalf("handed out %v, want the one whose server died", got)
	}
}

func TestQueueWaitsForNotBefore(t *testing.T) {
	at := start.Add(time.Minute)
	q := testQueue(10, with(queued(1, "p", "ds-1"), func(j *orrery.Job) { j.State, j.NotBefore = orrery.JobRunning, &at }))
	if got := drain(q, start); len(got) != 0 {
		t.Fatalf("handed out %v too early", got)
	}
	next, ok := q.nextTimer()
	if !ok || !next.Equal(at) {
		t.Fatalf("the timer is at %v, want %v", next, at)
	}
	q.expire(at)
	if got := drain(q, at); len(got) != 1 {
		t.Fatalf("handed out %v when its time had come", got)
	}
	if _, ok := q.nextTimer(); ok {
		t.Fatal("a timer is left")
	}
}

func TestQueueStuckJobs(t *testing.T) {
	stuck := with(queued(1, "p", "ds-1"), func(j *orrery.Job) { j.State = orrery.JobStuck })
	q := testQueue(10, stuck)
	q.setLock("ds-1", stuck.ID, start)
	q.setJob("jo-002", queued(2, "p", "ds-1"), start)
	if got := drain(q, start); len(got) != 0 {
		t.Fatalf("handed out %v beside a stuck job", got)
	}
	q.setJob("jo-002", nil, start)
	q.setJob("jo-003", with(queued(3, "p", "ds-1"), func(j *orrery.Job) { j.Kind = "delete" }), start)
	if got := drain(q, start); !slices.Equal(got, []string{"jo-003"}) {
		t.Fatalf("handed out %v, want the one that may take over", got)
	}
}

func TestQueueCancelledAndUnknown(t *testing.T) {
	q := testQueue(10,
		with(queued(1, "p", "ds-1"), func(j *orrery.Job) { j.Kind = "unknown" }),
		with(queued(2, "p", "ds-1"), func(j *orrery.Job) { j.CancelRequested = true }),
		queued(3, "p", "ds-1"))
	if got := drain(q, start); !slices.Equal(got, []string{"jo-002"}) {
		t.Fatalf("handed out %v, want the cancelled one at once and the third in its turn", got)
	}
}

func TestQueueIsFairOverProjects(t *testing.T) {
	q := testQueue(1000)
	for i := range 200 {
		j := queued(i, "big", fmt.Sprintf("ds-big-%d", i))
		q.setJob(j.ID, j, start)
	}
	for i := 200; i < 203; i++ {
		j := queued(i, "small", fmt.Sprintf("ds-small-%d", i))
		q.setJob(j.ID, j, start)
	}
	got := drain(q, start)
	if len(got) != 203 {
		t.Fatalf("handed out %d", len(got))
	}
	for i, id := range got[:6] {
		if small := id >= "jo-200"; small != (i%2 == 1) {
			t.Fatalf("the projects do not take turns: %v", got[:6])
		}
	}
	// Within a project, nobody waits much longer than his turn.
	for i, id := range got[6:] {
		var n int
		if _, err := fmt.Sscanf(id, "jo-%d", &n); err != nil {
			t.Fatal(err)
		}
		if late := i + 3 - n; late > 100 {
			t.Fatalf("job %s was handed out %d turns late", id, late)
		}
	}
}

func TestQueueLimitsAProject(t *testing.T) {
	q := testQueue(2, queued(1, "a", "ds-1"), queued(2, "a", "ds-2"), queued(3, "a", "ds-3"), queued(4, "b", "ds-4"))
	got := drain(q, start)
	if len(got) != 3 || !slices.Contains(got, "jo-004") {
		t.Fatalf("handed out %v, want two of project a and that of b", got)
	}
	q.done(got[0], start)
	q.setJob(got[0], nil, start)
	if id := q.next(start); id == "" {
		t.Fatal("a's third job is not handed out when its first has ended")
	}
}

func TestQueueLeavesNothingBehind(t *testing.T) {
	q := testQueue(10)
	for i := range 20 {
		j := queued(i, fmt.Sprintf("p%d", i%3), fmt.Sprintf("ds-%d", i%7))
		q.setJob(j.ID, j, start)
	}
	for range 20 {
		id := q.next(start)
		if id == "" {
			t.Fatal("nothing is handed out")
		}
		o := q.jobs[id].job.Object
		q.setLock(o, id, start)
		q.setJob(id, nil, start)
		q.setLock(o, "", start)
		q.done(id, start)
	}
	if len(q.jobs)+len(q.objects)+len(q.byID)+len(q.running)+len(q.ready) != 0 {
		t.Fatalf("left: %d jobs, %d objects, %d projects, %d running", len(q.jobs), len(q.objects), len(q.byID), len(q.running))
	}
}
