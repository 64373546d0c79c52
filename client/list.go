package client

import (
	"context"
	"iter"
	"maps"
	"net/url"
	"strconv"

	"github.com/orrery-db/orrery"
)

// ListOptions says which objects of a list to get, and in what order. The zero value gets all of them by name.
type ListOptions struct {
	// PageSize is how many are asked for at a time; the server's default where 0, at most 1000.
	PageSize int
	// Sort is a field to sort by, as in "name" or "-created_at" (newest first).
	Sort string
	// Filter compares fields, as in {"engine": "postgres"}.
	Filter map[string]string
}

func (o ListOptions) query() url.Values {
	q := url.Values{}
	if o.PageSize > 0 {
		q.Set("limit", strconv.Itoa(min(o.PageSize, 1000)))
	}
	if o.Sort != "" {
		q.Set("sort", o.Sort)
	}
	for k, v := range o.Filter {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

// page is one page of a list.
type page[T any] struct {
	Items      []*T   `json:"items"`
	NextCursor string `json:"next_cursor"`
}

// list pages through a list, fetching each page when it is come to. It ends after the first error.
func list[T any](ctx context.Context, c *Client, path string, o ListOptions) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		q := maps.Clone(o.query())
		for {
			p, err := get[page[T]](ctx, c, path, q)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range p.Items {
				if !yield(item, nil) {
					return
				}
			}
			if p.NextCursor == "" {
				return
			}
			if p.NextCursor == q.Get("cursor") {
				yield(nil, orrery.Errorf(orrery.KindInternal, "the list %s does not end", path))
				return
			}
			q.Set("cursor", p.NextCursor)
		}
	}
}

// Collect gathers a list.
func Collect[T any](seq iter.Seq2[*T, error]) ([]*T, error) {
	all := []*T{}
	for item, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}
