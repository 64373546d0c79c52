package cli

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/client"
	"github.com/spf13/cobra"
)

// run makes the RunE of a verb: it connects, and helps a mistyped name along.
func (a *app) run(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		err = f(cmd.Context(), c, args)
		name := ""
		if len(args) > 0 {
			name = args[0]
		}
		a.suggest(cmd.Context(), c, err, name)
		return err
	}
}

// suggest adds to an error about a missing object which names there are that look like the one that was given.
func (a *app) suggest(ctx context.Context, c *client.Client, err error, name string) {
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || e.Kind != orrery.KindNotFound || e.Hint != "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var names []string
	list := ""
	switch e.Code {
	case "datastore_not_found":
		names, list = collectNames(c.Datastores(ctx, a.projectName, client.ListOptions{})), "datastore"
	case "host_not_found":
		names, list = collectNames(c.Hosts(ctx, client.ListOptions{})), "host"
	case "project_not_found":
		names, list = collectNames(c.Projects(ctx, client.ListOptions{})), "project"
		if name == "" || !strings.Contains(e.Message, strconv.Quote(name)) {
			name = a.projectName // that of --project, and not the one that the verb is about
		}
	default:
		return
	}
	switch near := alike(name, names); {
	case len(near) > 0:
		e.Hint = "Did you mean " + quotedOr(near) + "?"
	case len(names) == 0:
		e.Hint = "There is none yet. See: orrery " + list + " create --help"
	default:
		e.Hint = "See what there is with: orrery " + list + " list"
	}
}

// object is any of the plane's objects.
type object[T any] interface {
	*T
	GetMeta() *orrery.Meta
}

func collectNames[T any, P object[T]](seq iter.Seq2[*T, error]) []string {
	var names []string
	for item, err := range seq {
		if err != nil {
			break
		}
		names = append(names, P(item).GetMeta().Name)
	}
	return names
}

// alike gives up to three names that somebody may have meant, the nearest first.
func alike(typed string, names []string) []string {
	type candidate struct {
		name string
		far  int
	}
	var found []candidate
	for _, n := range names {
		far := distance(strings.ToLower(typed), n)
		if far <= max(1, len(typed)/3) || (len(typed) > 1 && strings.HasPrefix(n, strings.ToLower(typed))) {
			found = append(found, candidate{n, far})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.far - b.far })
	near := []string{}
	for _, c := range found[:min(len(found), 3)] {
		near = append(near, c.name)
	}
	return near
}

// distance is how many letters must be changed, added, left out or swapped with their neighbour to turn a into b
// (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
