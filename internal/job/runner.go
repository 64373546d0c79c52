package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/store"
)

// Config is what a Runner needs.
type Config struct {
	Store *store.Store
	Kinds []Kind
	Steps map[string]Def
	// Server is this server's name. No two running servers may have the same: claims that a server finds in its own name
	// when it starts are those of its dead forerunner, and are dropped.
	Server string
	// Workers is how many jobs run here at once; 64 where 0. A step that waits holds its worker.
	Workers int
	// ProjectWorkers is how many of them jobs of one project may take, so that none fills the plane; three quarters of
	// Workers where 0.
	ProjectWorkers int
	Log            *slog.Logger
	// Hooks are for tests.
	Hooks Hooks
}

// Runner runs jobs. Several runners, on several servers, share the jobs of one store.
type Runner struct {
	cfg   Config
	store *store.Store
	log   *slog.Logger
	kinds map[string]Kind
	steps map[string]Def
	mark  string // on our claims, random, so that none mistakes a claim of an earlier run of the same server for its own

	stop chan struct{} // closed when Run's context ends
	dead chan struct{} // closed when a hook kills the runner
	kill sync.Once
	died error
}

// New makes a runner. It checks that the kinds and steps are whole.
func New(cfg Config) (*Runner, error) {
	if cfg.Store == nil || cfg.Log == nil || cfg.Server == "" {
		return nil, errors.New("job runner: Store, Log and Server must be given")
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 64
	}
	if cfg.ProjectWorkers <= 0 {
		cfg.ProjectWorkers = max(1, cfg.Workers*3/4)
	}
	r := &Runner{cfg: cfg, store: cfg.Store, log: cfg.Log, kinds: map[string]Kind{}, steps: map[string]Def{},
		mark: orrery.NewID("rn"), stop: make(chan struct{}), dead: make(chan struct{})}
	for _, k := range cfg.Kinds {
		if _, twice := r.kinds[k.Name]; twice || k.Name == "" || k.Plan == nil {
			return nil, fmt.Errorf("job runner: kind %q has no name, no plan, or is given twice", k.Name)
		}
		if err := CheckInput(k.Input); err != nil {
			return nil, fmt.Errorf("job runner: kind %s: %w", k.Name, err)
		}
		r.kinds[k.Name] = k
	}
	for name, d := range cfg.Steps {
		if d.Do == nil || d.Undo == nil && !d.ForwardOnly {
			return nil, fmt.Errorf("job runner: step %s: it needs a Do, and an Undo (NothingToUndo if need be) unless it is ForwardOnly", name)
		}
		r.steps[name] = d
	}
	return r, nil
}

// nothingToUndo tells whether undoing the step is a formality that needs no checkpoint of its own.
func (r *Runner) nothingToUndo(name string) bool {
	d := r.steps[name]
	return d.Undo != nil && reflect.ValueOf(d.Undo).Pointer() == reflect.ValueOf(NothingToUndo).Pointer()
}

// know tells whether this server can run the job. Another server may know kinds and steps that this one does not.
func (r *Runner) know(j *orrery.Job) bool {
	if _, ok := r.kinds[j.Kind]; !ok {
		return false
	}
	for i := range j.Steps {
		if _, ok := r.steps[j.Steps[i].Name]; !ok {
			return false
		}
	}
	return true
}

// Run claims and runs jobs until ctx ends, and then lets go of them: steps are cancelled, claims are freed so that
// another server goes on at once. It may be called once. It returns nil after ctx ended.
func (r *Runner) Run(ctx context.Context) error {
	if err := r.dropForerunner(ctx); err != nil {
		return err
	}
	m := &manager{Runner: r, runs: map[string]*run{}, ended: make(chan string, r.cfg.Workers)}
	m.work, m.cancelWork = context.WithCancel(context.WithoutCancel(ctx))
	defer m.cancelWork()
	return m.loop(ctx)
}

// dropForerunner deletes claims in our name: nobody else has it, and we have claimed nothing yet.
func (r *Runner) dropForerunner(ctx context.Context) error {
	for _, c := range r.store.Claims.By("owner", r.cfg.Server) {
		_, err := r.store.Update(ctx, func(tx *store.Tx) error {
			tx.Essential()
			now, err := r.store.Claims.TxGet(tx, c.ID)
			if orrery.KindOf(err) == orrery.KindNotFound {
				return nil
			}
			if err != nil || now.Note != c.Note {
				return err
			}
			return r.store.Claims.Delete(tx, c.ID)
		})
		if err != nil {
			return fmt.Errorf("drop the claim of an earlier %s on job %s: %w", r.cfg.Server, c.ID, err)
		}
	}
	return nil
}

// at calls the test hook, and dies if that says so.
func (r *Runner) at(job string, where Where, step int) error {
	if r.cfg.Hooks.At != nil {
		if err := r.cfg.Hooks.At(Point{Job: job, Where: where, Step: step}); err != nil {
			r.kill.Do(func() { r.died = err; close(r.dead) })
		}
	}
	if r.isDead() {
		return errKilled
	}
	return nil
}

func (r *Runner) isDead() bool {
	select {
	case <-r.dead:
		return true
	default:
		return false
	}
}

func (r *Runner) isStopping() bool {
	select {
	case <-r.stop:
		return true
	default:
		return false
	}
}

// manager is the one goroutine that sees all changes and hands out work.
type manager struct {
	*Runner
	queue      *queue
	runs       map[string]*run
	ended      chan string // IDs of jobs whose run is over
	seen       int64       // revision of the last change
	work       context.Context
	cancelWork context.CancelFunc
}

func (m *manager) loop(ctx context.Context) error {
	var changes <-chan store.Change
	defer m.wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if changes == nil {
			var err error
			if changes, err = m.watch(ctx); err != nil {
				close(m.stop)
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("watch jobs: %w", err)
			}
		}
		m.dispatch()
		timer.Reset(m.nextTimer())
		select {
		case <-ctx.Done():
			close(m.stop)
			return nil
		case <-m.dead:
			return m.died
		case ch, ok := <-changes:
			if !ok { // we were too slow, or the store closes
				changes = nil
				continue
			}
			m.see(ch)
		case id := <-m.ended:
			m.over(id)
		case <-timer.C:
			m.queue.expire(time.Now())
		}
	}
}

// watch starts the watch where an earlier one was cut off because we were slow or, where that cannot be, anew: then it
// reads what is, after the watch began. What changes between the two is seen twice, which does no harm since each
// change only makes us look.
func (m *manager) watch(ctx context.Context) (<-chan store.Change, error) {
	s := m.store
	topics := []store.Topic{s.Jobs.TopicAll(), s.Claims.TopicAll(), s.Locks.TopicAll()}
	if m.seen > 1 {
		if changes, err := s.Watch(ctx, nil, m.seen-1, topics...); err == nil {
			return changes, nil
		}
	}
	changes, err := s.Watch(ctx, nil, 0, topics...)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	old := m.queue
	m.queue = newQueue(m.know, func(kind string) bool { return m.kinds[kind].TakesOver }, m.cfg.ProjectWorkers)
	for _, l := range s.Locks.List() {
		m.queue.setLock(l.ID, l.Owner, now)
	}
	for _, state := range []orrery.JobState{orrery.JobQueued, orrery.JobRunning, orrery.JobUndoing, orrery.JobStuck} {
		for _, j := range s.Jobs.By("state", string(state)) {
			m.look(j.ID)
		}
	}
	if old != nil {
		m.queue.adopt(old)
	}
	return changes, nil
}

// look takes over what the store says of a job now.
func (m *manager) look(id string) {
	now := time.Now()
	j, _ := m.store.Jobs.Get(id)
	claim, claimed := m.store.Claims.Get(id)
	m.queue.setJob(id, j, now)
	m.queue.setClaim(id, claimed, now)
	if run := m.runs[id]; run != nil {
		if j != nil && j.CancelRequested {
			run.cancel()
		}
		if run.claimed.Load() && (!claimed || claim.Note != m.mark) {
			run.lose()
		}
	}
}

func (m *manager) lookLock(objectID string) {
	holder := ""
	if l, ok := m.store.Locks.Get(objectID); ok {
		holder = l.Owner
	}
	m.queue.setLock(objectID, holder, time.Now())
}

func (m *manager) see(ch store.Change) {
	m.seen = ch.Revision
	if ch.Collection == m.store.Locks.Name() {
		m.lookLock(ch.ID)
		return
	}
	m.look(ch.ID)
	// A stuck job's state decides whether another may take its object over.
	if j, ok := m.store.Jobs.Get(ch.ID); ok && j.State == orrery.JobStuck {
		m.lookLock(j.Object)
	}
}

func (m *manager) dispatch() {
	for len(m.runs) < m.cfg.Workers {
		id := m.queue.next(time.Now())
		if id == "" {
			return
		}
		n := newRun(m.work, m.Runner, id)
		m.runs[id] = n
		go func() {
			n.do()
			m.ended <- id
		}()
	}
}

// over frees the worker. The mirror is brought up to what the store says first, so that a job that another server was
// quicker to claim is not tried again.
func (m *manager) over(id string) {
	delete(m.runs, id)
	if j, ok := m.store.Jobs.Get(id); ok {
		m.lookLock(j.Object)
	}
	m.look(id)
	m.queue.done(id, time.Now())
}

func (m *manager) nextTimer() time.Duration {
	at, ok := m.queue.nextTimer()
	if !ok {
		return time.Hour
	}
	return max(time.Until(at), 0)
}

// wait lets all runs end. They end by themselves: stopping and dying are seen by each.
func (m *manager) wait() {
	for len(m.runs) > 0 {
		delete(m.runs, <-m.ended)
	}
}
