package job

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/orrery-db/orrery"
)

// queue decides which job this server should try to claim next. It is a mirror of what the store says of unfinished
// jobs, claims and locks, kept up to date change by change; each change costs work on the one object that it is about.
// It is pure and used by one goroutine; that a decision is still right is checked by the claim's transaction.
type queue struct {
	know    func(*orrery.Job) bool // whether this server can run it
	takes   func(kind string) bool // whether the kind takes an object over from a stuck job
	limit   int                    // running jobs of one project
	jobs    map[string]*entry
	objects map[string]*object
	ready   []*project // those with ready objects, next in turn first
	byID    map[string]*project
	running map[string]*project // jobs that this server runs
	timers  timers
}

// entry is an unfinished job.
type entry struct {
	job     *orrery.Job // shared with the store's cache, never changed
	claimed bool        // by any server
	taken   bool        // handed out by next and not yet given back
}

// object is what jobs work on.
type object struct {
	id      string
	jobs    []*entry // by order of creation
	lock    string   // ID of the job that holds it
	project *project // in whose ready list it stands, nil when in none
}

type project struct {
	id      string
	ready   []*object
	listed  bool
	running int
}

func newQueue(know func(*orrery.Job) bool, takes func(string) bool, limit int) *queue {
	return &queue{know: know, takes: takes, limit: limit, jobs: map[string]*entry{}, objects: map[string]*object{},
		byID: map[string]*project{}, running: map[string]*project{}}
}

// before is the order in which jobs of one object run.
func before(a, b *entry) int {
	return cmp.Or(a.job.CreatedAt.Compare(b.job.CreatedAt), cmp.Compare(a.job.ID, b.job.ID))
}

// setJob takes in a job as the store has it now; nil when it is gone.
func (q *queue) setJob(id string, j *orrery.Job, now time.Time) {
	e := q.jobs[id]
	if j == nil || j.State.Final() {
		if e == nil {
			return
		}
		delete(q.jobs, id)
		o := q.objects[e.job.Object]
		o.jobs = slices.DeleteFunc(o.jobs, func(x *entry) bool { return x == e })
		q.update(o, now)
		return
	}
	o := q.object(j.Object)
	if e == nil {
		e = &entry{job: j}
		q.jobs[id] = e
		at, _ := slices.BinarySearchFunc(o.jobs, e, before)
		o.jobs = slices.Insert(o.jobs, at, e)
	}
	e.job = j
	if !due(j, now) {
		heap.Push(&q.timers, timer{at: *j.NotBefore, object: j.Object})
	}
	q.update(o, now)
}

// setClaim takes in whether a job has a claim.
func (q *queue) setClaim(id string, claimed bool, now time.Time) {
	if e := q.jobs[id]; e != nil && e.claimed != claimed {
		e.claimed = claimed
		q.update(q.objects[e.job.Object], now)
	}
}

// setLock takes in which job holds an object; "" for none.
func (q *queue) setLock(objectID, holder string, now time.Time) {
	o := q.object(objectID)
	o.lock = holder
	q.update(o, now)
}

func (q *queue) object(id string) *object {
	o := q.objects[id]
	if o == nil {
		o = &object{id: id}
		q.objects[id] = o
	}
	return o
}

// update puts the object into its project's turn if it has a job that can be claimed. Objects that have none are taken
// out when their turn comes.
func (q *queue) update(o *object, now time.Time) {
	if len(o.jobs) == 0 {
		if o.lock == "" && o.project == nil {
			delete(q.objects, o.id)
		}
		return
	}
	e := q.pick(o, now)
	if e == nil || o.project != nil {
		return
	}
	p := q.project(e.job.Project)
	o.project = p
	p.ready = append(p.ready, o)
	if !p.listed {
		p.listed = true
		q.ready = append(q.ready, p)
	}
}

func (q *queue) project(id string) *project {
	p := q.byID[id]
	if p == nil {
		p = &project{id: id}
		q.byID[id] = p
	}
	return p
}

// pick gives the object's first job that can be claimed now: first what ends at once, then what had begun, then by
// order of creation.
func (q *queue) pick(o *object, now time.Time) *entry {
	var found *entry
	headSeen := false
	for _, e := range o.jobs {
		j := e.job
		mutating := !j.ReadOnly
		head := mutating && !headSeen && j.State == orrery.JobQueued
		if head {
			headSeen = true
		}
		if e.claimed || e.taken || j.State == orrery.JobStuck || !q.know(j) {
			continue
		}
		if j.State == orrery.JobQueued && j.CancelRequested {
			return e
		}
		if !due(j, now) {
			continue
		}
		switch {
		case j.State != orrery.JobQueued: // begun, and left by its server
			return e
		case mutating && (!head || !q.free(o, j)):
			continue
		case found == nil:
			found = e
		}
	}
	return found
}

// free tells whether a queued mutating job could have the object.
func (q *queue) free(o *object, j *orrery.Job) bool {
	if o.lock == "" || o.lock == j.ID {
		return true
	}
	holder := q.jobs[o.lock]
	return holder == nil || holder.job.State == orrery.JobStuck && q.takes(j.Kind)
}

// due tells whether the job need not wait for its next attempt, or no longer: it is to be cancelled.
func due(j *orrery.Job, now time.Time) bool {
	return j.NotBefore == nil || !j.NotBefore.After(now) ||
		j.CancelRequested && canUndo(j) && (j.State == orrery.JobQueued || j.State == orrery.JobRunning)
}

// window is how many of a project's ready objects are drawn from. Servers that share the work see the same order; drawing
// keeps them from racing for every single job.
const window = 8

// next hands out a job to try, "" where there is none. Projects take turns, and within a project objects do. The job
// counts as running here until done is called.
func (q *queue) next(now time.Time) string {
	for range len(q.ready) {
		p := q.ready[0]
		q.ready = q.ready[1:]
		if p.running >= q.limit {
			q.ready = append(q.ready, p)
			continue
		}
		e := q.draw(p, now)
		if len(p.ready) > 0 {
			q.ready = append(q.ready, p)
		} else {
			p.listed = false
		}
		if e != nil {
			e.taken = true
			p.running++
			q.running[e.job.ID] = p
			return e.job.ID
		}
		q.drop(p)
	}
	return ""
}

// draw takes a ready object out of the project's turn, and puts it last if it has more to claim.
func (q *queue) draw(p *project, now time.Time) *entry {
	for len(p.ready) > 0 {
		i := rand.N(min(window, len(p.ready)))
		o := p.ready[i]
		// The one drawn changes places with the first, so that none waits longer than a window's worth of turns.
		p.ready[i] = p.ready[0]
		p.ready = p.ready[1:]
		o.project = nil
		e := q.pick(o, now)
		if e == nil {
			q.update(o, now)
			continue
		}
		e.taken = true
		q.update(o, now)
		return e
	}
	return nil
}

// done gives back a job that next handed out.
func (q *queue) done(id string, now time.Time) {
	if p := q.running[id]; p != nil {
		delete(q.running, id)
		p.running--
		q.drop(p)
	}
	if e := q.jobs[id]; e != nil {
		e.taken = false
		q.update(q.objects[e.job.Object], now)
	}
}

// adopt takes over from an older mirror which jobs this server runs.
func (q *queue) adopt(old *queue) {
	for id, was := range old.running {
		p := q.project(was.id)
		p.running++
		q.running[id] = p
		if e := q.jobs[id]; e != nil {
			e.taken = true
		}
	}
}

func (q *queue) drop(p *project) {
	if !p.listed && p.running == 0 {
		delete(q.byID, p.id)
	}
}

// timer is the moment at which an object has to be looked at again.
type timer struct {
	at     time.Time
	object string
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, k int) bool { return t[i].at.Before(t[k].at) }
func (t timers) Swap(i, k int)      { t[i], t[k] = t[k], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	*t = (*t)[:last]
	return x
}

// nextTimer gives the moment at which expire has something to do; ok is false where there is none.
func (q *queue) nextTimer() (at time.Time, ok bool) {
	if len(q.timers) == 0 {
		return time.Time{}, false
	}
	return q.timers[0].at, true
}

// expire looks again at the objects whose moment has come.
func (q *queue) expire(now time.Time) {
	for len(q.timers) > 0 && !q.timers[0].at.After(now) {
		t := heap.Pop(&q.timers).(timer)
		if o := q.objects[t.object]; o != nil {
			q.update(o, now)
		}
	}
}
