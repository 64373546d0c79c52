package api

import (
	"encoding/base64"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// ListOptions says which part of a list is wanted, in what order.
type ListOptions struct {
	Limit int
	// Sort is "name" or "created_at"; Desc turns it around. Equal keys are in the order of IDs, turned around as well.
	Sort string
	Desc bool
	// After is the last object of the page before; nil for the first page.
	After *Position
	// Filter holds fields and the values they must have.
	Filter map[string]string
}

// Position is a place in a sorted list: behind the object with this key and ID.
type Position struct {
	Key string `json:"k"`
	ID  string `json:"i"`
}

// Page is a part of a list.
type Page[T any] struct {
	Items []*T
	// More tells that the list goes on behind the last item.
	More bool
	// Revision of the state that the page shows at least.
	Revision int64
}

// SortKey is an object's key in the order of a list.
func SortKey(m *orrery.Meta, sort string) string {
	if sort == "created_at" {
		return m.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000000Z") // of fixed width, so that text order is time order
	}
	return m.Name
}

// cursor is what the opaque next_cursor holds.
type cursor struct {
	Sort string `json:"s"`
	Position
}

func (c cursor) String() string {
	data, _ := json.Marshal(c) // strings cannot fail
	return base64.RawURLEncoding.EncodeToString(data)
}

// listOptions reads the query of a list.
func listOptions(q url.Values, defaultSort string, filters []string) (ListOptions, error) {
	o := ListOptions{Limit: defaultLimit}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return o, orrery.Invalid("limit", "%q is not a number from 1 to %d", orrery.Shorten(s, 20), maxLimit)
		}
		o.Limit = n
	}
	sort := q.Get("sort")
	if sort == "" {
		sort = defaultSort
	}
	o.Sort, o.Desc = strings.TrimPrefix(sort, "-"), strings.HasPrefix(sort, "-")
	if o.Sort != "name" && o.Sort != "created_at" {
		return o, orrery.Invalid("sort", "%q cannot be sorted by", orrery.Shorten(sort, 40)).
			WithHint("Sort by name or created_at; put a hyphen before it to turn the order around.")
	}
	if s := q.Get("cursor"); s != "" {
		var c cursor
		data, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || json.Unmarshal(data, &c) != nil || c.Sort != sort {
			return o, orrery.Invalid("cursor", "this is not a cursor of this list").
				WithHint("Give next_cursor of the page before, with the same sort, or leave it out.")
		}
		o.After = &c.Position
	}
	for _, f := range filters {
		if v := q.Get(f); v != "" {
			if o.Filter == nil {
				o.Filter = map[string]string{}
			}
			o.Filter[f] = v
		}
	}
	return o, nil
}

// nextCursor points behind the last of a page's items.
func (o ListOptions) nextCursor(last *orrery.Meta) string {
	c := cursor{Sort: o.Sort, Position: Position{Key: SortKey(last, o.Sort), ID: last.ID}}
	if o.Desc {
		c.Sort = "-" + c.Sort
	}
	return c.String()
}

// within tells whether a position comes after o.After in the order of the list.
func (o ListOptions) within(key, id string) bool {
	if o.After == nil {
		return true
	}
	c := strings.Compare(key, o.After.Key)
	if c == 0 {
		c = strings.Compare(id, o.After.ID)
	}
	if o.Desc {
		return c < 0
	}
	return c > 0
}

// Select sorts and cuts what is in memory into the page that o asks for. meta gives what it is sorted by.
func Select[T any](items []*T, o ListOptions, revision int64, meta func(*T) *orrery.Meta) Page[T] {
	type keyed struct {
		key, id string
		item    *T
	}
	left := make([]keyed, 0, min(len(items), 4*maxLimit))
	for _, item := range items {
		m := meta(item)
		if key := SortKey(m, o.Sort); o.within(key, m.ID) {
			left = append(left, keyed{key, m.ID, item})
		}
	}
	slices.SortFunc(left, func(a, b keyed) int {
		c := strings.Compare(a.key, b.key)
		if c == 0 {
			c = strings.Compare(a.id, b.id)
		}
		if o.Desc {
			return -c
		}
		return c
	})
	p := Page[T]{More: len(left) > o.Limit, Revision: revision, Items: make([]*T, 0, min(len(left), o.Limit))}
	for _, k := range left[:min(len(left), o.Limit)] {
		p.Items = append(p.Items, k.item)
	}
	return p
}

// listBody documents the body of a list.
type listBody[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor,omitempty" doc:"Give it as cursor to get the next page; missing on the last."`
	Revision   int64  `json:"revision,omitempty" doc:"Of the state that the list shows at least; a watch can go on from it."`
}

// now is the API's clock.
func now() time.Time { return time.Now().UTC() }
