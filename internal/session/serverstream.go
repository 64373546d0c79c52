package session

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

var (
	errGoingAway = orrery.Errorf(orrery.KindUnavailable, "the server is going away").WithCode("server_going_away")
	errReplaced  = orrery.Errorf(orrery.KindConflict, "a newer session of the same identity took this one's place").WithCode(CodeReplaced)
	errEnded     = orrery.Errorf(orrery.KindUnavailable, "the server ended the session").WithCode("session_ended")
	errNoHello   = orrery.Invalid("", "the stream did not begin with a hello").WithCode("message_malformed")
)

// helloTimeout is how long a stream may take to say who it is of.
const helloTimeout = 10 * time.Second

type upStream = grpc.BidiStreamingServer[sessionpb.Up, sessionpb.Down]

// serverStream is one stream. Its handler's goroutine sends; one more receives.
type serverStream struct {
	s      *Server
	who    Identity
	ss     upStream
	ctx    context.Context
	cancel context.CancelCauseFunc

	hello  chan Hello
	opened chan struct{} // closed when the plane has taken the session
	done   chan struct{} // closed when the plane's session is closed
	acks   chan string

	agent    AgentSession  // of a host, else
	keeper   KeeperSession // of an instance
	sequence uint64        // of the newest report

	heard atomic.Bool // something came since the last beat
	busy  atomic.Bool // the plane is being told something

	mu     sync.Mutex // held while the plane is told something
	closed bool
}

// run is the life of a stream, in its handler's goroutine.
func (s *Server) run(who Identity, ss upStream) error {
	ctx, cancel := context.WithCancelCause(ss.Context())
	st := &serverStream{
		s: s, who: who, ss: ss, ctx: ctx, cancel: cancel,
		hello: make(chan Hello, 1), opened: make(chan struct{}), done: make(chan struct{}), acks: make(chan string, 4),
	}
	defer cancel(nil)
	go st.receive()

	timer := time.NewTimer(helloTimeout)
	defer timer.Stop()
	var hello Hello
	select {
	case hello = <-st.hello:
	case <-timer.C:
		return errNoHello
	case <-ctx.Done():
		return context.Cause(ctx)
	}

	older, err := s.hold(st)
	if err != nil {
		return err
	}
	if older != nil {
		older.cancel(errReplaced)
		select {
		case <-older.done: // its session is closed before this one's begins
		case <-ctx.Done():
			// This one was replaced too, or its peer went: who waits for it must still wait for the older one.
			go func() { <-older.done; s.release(st) }()
			return context.Cause(ctx)
		}
	}
	defer s.release(st)
	if err := st.open(hello); err != nil {
		return err
	}
	defer st.close()
	if err := ss.SendHeader(metadata.Pairs(heartbeatHeader, strconv.FormatInt(s.cfg.Heartbeat.Milliseconds(), 10))); err != nil {
		return err
	}
	s.cfg.Log.Debug("session begun", "who", who.String(), "version", hello.Version)
	return st.send()
}

// hold makes st the stream of its identity, and gives the one that was.
func (s *Server) hold(st *serverStream) (older *serverStream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, errGoingAway
	}
	older = s.streams[st.who]
	s.streams[st.who] = st
	return older, nil
}

func (s *Server) release(st *serverStream) {
	s.mu.Lock()
	if s.streams[st.who] == st {
		delete(s.streams, st.who)
	}
	s.mu.Unlock()
	close(st.done)
}

// open tells the plane of the stream.
func (st *serverStream) open(hello Hello) error {
	agent, keeper, err := AgentSession(nil), KeeperSession(nil), error(nil)
	if st.who.Kind == KindHost {
		agent, err = st.s.cfg.Plane.AgentConnected(st.ctx, st.who, hello)
	} else {
		keeper, err = st.s.cfg.Plane.KeeperConnected(st.ctx, st.who, hello)
	}
	if err != nil {
		return err
	}
	st.agent, st.keeper = agent, keeper
	close(st.opened)
	return nil
}

// close waits for what the plane is being told, whose context has ended, and closes the plane's session.
func (st *serverStream) close() {
	st.cancel(nil)
	st.mu.Lock()
	defer st.mu.Unlock()
	st.closed = true
	if st.agent != nil {
		st.agent.Close()
	} else {
		st.keeper.Close()
	}
}

// send passes on what the plane wishes until the stream ends.
func (st *serverStream) send() error {
	var wishes <-chan Wish
	var actions <-chan Action
	if st.agent != nil {
		wishes = st.agent.Wishes()
	} else {
		wishes, actions = st.keeper.Wishes(), st.keeper.Actions()
	}
	// gRPC probes a peer from whom nothing comes. A peer from whom something comes would never hear of us: it is sent an
	// empty message, so that it can tell that we live.
	beat := time.NewTicker(st.s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		down := &sessionpb.Down{}
		select {
		case <-beat.C:
			if !st.heard.Swap(false) && !st.busy.Load() {
				continue
			}
		case <-st.ctx.Done():
			return context.Cause(st.ctx)
		case w, ok := <-wishes:
			if !ok {
				return errEnded
			}
			down.Message = &sessionpb.Down_Wish{Wish: &sessionpb.Wish{Generation: w.Generation, Body: w.Body}}
		case a, ok := <-actions:
			if !ok {
				actions = nil
				continue
			}
			down.Message = &sessionpb.Down_Action{Action: &sessionpb.Action{Id: a.ID, Kind: a.Kind, Args: a.Args}}
		case id := <-st.acks:
			down.Message = &sessionpb.Down_ActionDone{ActionDone: &sessionpb.ActionDone{Id: id}}
		}
		if err := st.ss.Send(down); err != nil {
			return err
		}
	}
}

// receive takes what the peer says until the stream ends, which it does when the handler returns.
func (st *serverStream) receive() {
	up, err := st.ss.Recv()
	if err == nil {
		h := up.GetHello()
		if h == nil {
			st.cancel(errNoHello)
			return
		}
		st.hello <- Hello{Version: h.GetVersion(), BootID: h.GetBootId(), Generation: h.GetGeneration()}
		select {
		case <-st.opened:
		case <-st.ctx.Done():
			return
		}
	}
	for err == nil {
		if up, err = st.ss.Recv(); err == nil {
			st.heard.Store(true)
			st.busy.Store(true)
			err = st.take(up)
			st.busy.Store(false)
		}
	}
	if _, ok := errors.AsType[*orrery.Error](err); !ok && st.ctx.Err() == nil {
		err = fromTransport(err)
	}
	st.cancel(err)
}

// fromTransport names the reason why nothing more comes.
func fromTransport(err error) error {
	if e, ok := errors.AsType[*orrery.Error](fromStatus(err)); ok && e.Kind == orrery.KindTooLarge {
		return e.WithHint("A message may have %d MiB.", MaxMessage>>20)
	}
	return errPeerGone
}

// errPeerGone is the ordinary end of a stream.
var errPeerGone = errors.Join(context.Canceled, errors.New("the peer is gone"))

func (st *serverStream) take(up *sessionpb.Up) error {
	switch m := up.GetMessage().(type) {
	case *sessionpb.Up_Report:
		if m.Report.GetSequence() <= st.sequence {
			return nil // said already
		}
		st.sequence = m.Report.GetSequence()
		return st.report(m.Report.GetBody())
	case *sessionpb.Up_Stats:
		var v KeeperStats
		if err := json.Unmarshal(m.Stats.GetBody(), &v); err != nil {
			return malformed("a stats message", err)
		}
		return st.tell(func() error {
			if st.keeper != nil {
				st.keeper.Stats(v)
			}
			return nil
		})
	case *sessionpb.Up_ActionResult:
		var v ActionResult
		if err := json.Unmarshal(m.ActionResult.GetBody(), &v); err != nil {
			return malformed("the result of an action", err)
		}
		id := m.ActionResult.GetId()
		if st.who.Kind != KindInstance || !actionID.MatchString(id) {
			return malformed("the result of an action", errors.New("no action has such an ID"))
		}
		if err := st.tell(func() error { return st.keeper.ActionResult(st.ctx, id, v) }); err != nil {
			return err
		}
		select {
		case st.acks <- id:
		case <-st.ctx.Done():
		}
		return nil
	case *sessionpb.Up_Hello:
		return malformed("the stream", errors.New("a second hello"))
	}
	return nil // of a newer version of the protocol
}

func (st *serverStream) report(body []byte) error {
	if st.who.Kind == KindHost {
		var r AgentReport
		if err := json.Unmarshal(body, &r); err != nil {
			return malformed("a report", err)
		}
		return st.tell(func() error { return st.agent.Report(st.ctx, r) })
	}
	var r KeeperReport
	if err := json.Unmarshal(body, &r); err != nil {
		return malformed("a report", err)
	}
	return st.tell(func() error { return st.keeper.Report(st.ctx, r) })
}

// tell says something to the plane, again and again until it takes it or refuses it for good. Meanwhile nothing more is
// received, so that a peer keeps what is newest to itself: an outage of the state store costs no memory here.
func (st *serverStream) tell(f func() error) error {
	delay := 100 * time.Millisecond
	for {
		err := st.tellOnce(f)
		switch {
		case err == nil:
			return nil
		case st.ctx.Err() != nil:
			return context.Cause(st.ctx)
		}
		switch orrery.KindOf(err) {
		case orrery.KindInvalid, orrery.KindForbidden, orrery.KindNotFound, orrery.KindUnauthorized, orrery.KindTooLarge:
			return err
		}
		st.s.cfg.Log.Warn("the plane did not take a message; it is tried again", "who", st.who.String(), "err", err)
		timer := time.NewTimer(delay/2 + rand.N(delay))
		select {
		case <-timer.C:
		case <-st.ctx.Done():
			timer.Stop()
			return context.Cause(st.ctx)
		}
		delay = min(2*delay, 5*time.Second)
	}
}

func (st *serverStream) tellOnce(f func() error) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return errPeerGone
	}
	return f()
}
