package control

import (
	"context"
	"time"

	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/store"
)

// Revision of the state that reads show.
func (c *Control) Revision() int64 { return c.store.Revision() }

// Watch follows topics from behind a revision on.
func (c *Control) Watch(ctx context.Context, from int64, topics ...api.Topic) (api.Stream, error) {
	wanted := make([]store.Topic, len(topics))
	for i, t := range topics {
		wanted[i] = store.Topic(t)
	}
	changes, err := c.store.Watch(ctx, nil, from, wanted...)
	if err != nil {
		return nil, err
	}
	return stream(changes), nil
}

// TokenTopic is where changes of a token are told.
func (c *Control) TokenTopic(id string) api.Topic { return api.Topic(c.store.Tokens.Topic(id)) }

// stream is an open watch of the store.
type stream <-chan store.Change

// Next waits for the next change.
func (s stream) Next(ctx context.Context, timer <-chan time.Time) (ch api.Change, ok, over bool) {
	select {
	case change, open := <-s:
		return api.Change(change), open, !open
	case <-timer:
	case <-ctx.Done():
	}
	return ch, false, false
}
