package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/session/sessionpb"
)

type downStream = grpc.BidiStreamingClient[sessionpb.Up, sessionpb.Down]

// runStream is the life of one stream. connected tells whether the server took it. The error is never nil.
func (c *Client) runStream(ctx context.Context) (connected bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	address := c.address()
	tooLong := time.AfterFunc(connectTimeout, func() { cancel(unreachable(errors.New("it does not answer"))) })
	defer tooLong.Stop()
	l, err := dial(ctx, address, provenTLS(c.cfg.ServerName, c.current))
	if err != nil {
		return false, fmt.Errorf("connect to %s: %w", address, err)
	}
	defer func() { _ = l.Close() }()
	stream, err := c.greet(ctx, l)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return false, fmt.Errorf("connect to %s: %w", l.address, err)
	}
	tooLong.Stop()

	c.mu.Lock()
	c.link = l
	c.mu.Unlock()
	c.cfg.Log.Info("session with the server begun", "server", l.address, "who", c.current().who.String())
	if c.cfg.OnConnected != nil {
		c.cfg.OnConnected(true, nil)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := c.sendAll(ctx, stream); err != nil && !errors.Is(err, io.EOF) {
			cancel(err)
		}
	}()
	err = c.receiveAll(stream)
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		err = cause
	}
	cancel(err)
	<-sent
	c.mu.Lock()
	c.link = nil
	c.mu.Unlock()
	return true, fmt.Errorf("session with %s: %w", l.address, err)
}

// greet begins a stream and waits until the server has taken it.
func (c *Client) greet(ctx context.Context, l *link) (downStream, error) {
	stream, err := sessionpb.NewSessionClient(l).Connect(ctx)
	if err != nil {
		return nil, fromStatus(err)
	}
	held, _ := c.wish.generations()
	err = stream.Send(&sessionpb.Up{Message: &sessionpb.Up_Hello{Hello: &sessionpb.Hello{
		Version: c.cfg.Version, BootId: c.bootID, Generation: held,
	}}})
	if err != nil {
		_, err = stream.Recv() // has the reason
		return nil, fromStatus(err)
	}
	header, err := stream.Header()
	if err == nil && header == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return nil, fromStatus(err)
	}
	if v := header.Get(heartbeatHeader); len(v) == 1 {
		if ms, err := strconv.ParseInt(v[0], 10, 32); err == nil && ms > 0 {
			l.silence.Store(3 * ms * int64(time.Millisecond))
		}
	}
	return stream, nil
}

// receiveAll takes what the server sends until the stream ends, and gives the reason.
func (c *Client) receiveAll(stream downStream) error {
	for {
		down, err := stream.Recv()
		if err != nil {
			return fromStatus(err)
		}
		switch m := down.GetMessage().(type) {
		case *sessionpb.Down_Wish:
			if err := c.takeWish(Wish{Generation: m.Wish.GetGeneration(), Body: m.Wish.GetBody()}); err != nil {
				return err
			}
		case *sessionpb.Down_Action:
			if err := c.takeAction(Action{ID: m.Action.GetId(), Kind: m.Action.GetKind(), Args: m.Action.GetArgs()}); err != nil {
				return err
			}
		case *sessionpb.Down_ActionDone:
			if err := c.ledger.acked(m.ActionDone.GetId()); err != nil {
				c.cfg.Log.Warn("an acknowledged action was not noted", "err", err)
			}
		}
	}
}

func (c *Client) takeWish(w Wish) error {
	if !json.Valid(w.Body) {
		return malformed("a wish", errors.New("its body is not JSON"))
	}
	taken, err := c.wish.offer(w)
	if err != nil {
		c.cfg.Log.Error("the newest wish was not written down", "generation", w.Generation, "err", err)
	}
	if held, seen := c.wish.generations(); !taken && w.Generation < seen {
		c.cfg.Log.Warn("an older wish was refused", "generation", w.Generation, "seen", seen, "held", held)
	}
	return nil
}

func (c *Client) takeAction(a Action) error {
	if !actionID.MatchString(a.ID) || (len(a.Args) > 0 && !json.Valid(a.Args)) {
		return malformed("an action", errors.New("its ID or its arguments are not of the right form"))
	}
	select {
	case c.actions <- a:
	default:
		c.cfg.Log.Warn("too many actions wait; one was dropped, to be sent again with the next session", "action", a.ID)
	}
	return nil
}

// sendAll sends what is newest, and each unacknowledged result, until the stream ends.
func (c *Client) sendAll(ctx context.Context, stream downStream) error {
	s := sender{c: c, stream: stream, told: map[string]int{}}
	if err := s.results(); err != nil {
		return err
	}
	if err := s.report(); err != nil {
		return err
	}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-c.reports.signal:
			err = s.report()
		case <-c.stats.signal:
			err = s.stats()
		case <-c.results:
			err = s.results()
		}
		if err != nil {
			return err
		}
	}
}

// sender is what one stream has been told.
type sender struct {
	c        *Client
	stream   downStream
	sequence uint64
	version  int64          // of the last report
	last     []byte         // body of the last report
	told     map[string]int // how often a result was asked for when it was sent, by action
}

func (s *sender) report() error {
	f, version := s.c.reports.get()
	if f == nil || version == s.version {
		return nil
	}
	s.version = version
	v := f(s.sequence == 0)
	if v == nil {
		return nil
	}
	body, err := json.Marshal(v)
	if err != nil {
		s.c.cfg.Log.Error("a report cannot be encoded", "err", err)
		return nil
	}
	if len(body) > MaxMessage-64 {
		s.c.cfg.Log.Error("a report is too large to be sent", "bytes", len(body), "most", MaxMessage)
		return nil
	}
	if s.sequence > 0 && bytes.Equal(body, s.last) {
		return nil
	}
	s.sequence++
	s.last = body
	return s.send(&sessionpb.Up{Message: &sessionpb.Up_Report{Report: &sessionpb.Report{Sequence: s.sequence, Body: body}}})
}

func (s *sender) stats() error {
	f, _ := s.c.stats.get()
	if f == nil {
		return nil
	}
	body, err := json.Marshal(f(false))
	if err != nil {
		s.c.cfg.Log.Error("stats cannot be encoded", "err", err)
		return nil
	}
	return s.send(&sessionpb.Up{Message: &sessionpb.Up_Stats{Stats: &sessionpb.Stats{Body: body}}})
}

func (s *sender) results() error {
	for _, e := range s.c.ledger.unacked() {
		if asked, ok := s.told[e.id]; ok && asked == e.asked {
			continue
		}
		body, err := json.Marshal(e.Result)
		if err != nil {
			return fmt.Errorf("encode the result of action %s: %w", e.id, err)
		}
		err = s.send(&sessionpb.Up{Message: &sessionpb.Up_ActionResult{ActionResult: &sessionpb.ActionResult{Id: e.id, Body: body}}})
		if err != nil {
			return err
		}
		s.told[e.id] = e.asked
	}
	return nil
}

func (s *sender) send(up *sessionpb.Up) error {
	err := s.stream.Send(up)
	if err == nil || errors.Is(err, io.EOF) { // the receiver is told why
		return err
	}
	return fromStatus(err)
}

func isInvalid(err error) bool { return orrery.KindOf(err) == orrery.KindInvalid }
