package step

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/placement"
	"github.com/orrery-db/orrery/internal/plan"
	"github.com/orrery-db/orrery/internal/store"
)

// awayTime is how long placement waits for hosts that are not connected, before it says that there is no room: after a
// server was restarted its agents need a moment to come back.
const awayTime = 30 * time.Second

// place makes the instances. Where there is no room while some host is away, it waits a little for that host.
func (s *Steps) place(ctx context.Context, c *job.Context) error {
	err := s.placeNow(ctx, c)
	if err == nil || orrery.KindOf(err) != orrery.KindExhausted || !s.someAway() {
		return err
	}
	c.Logf("no host has room yet; waiting for hosts that are not connected")
	wait, cancel := context.WithTimeout(ctx, awayTime)
	defer cancel()
	if waitErr := s.store.WaitFor(wait, nil, func() (bool, error) { return !s.someAway(), nil }, s.store.Presences.TopicAll()); waitErr != nil && ctx.Err() != nil {
		return waitErr
	}
	return s.placeNow(ctx, c)
}

// someAway tells whether a host is not connected to any server.
func (s *Steps) someAway() bool {
	return slices.ContainsFunc(s.store.Hosts.List(), func(h *orrery.Host) bool {
		_, here := s.store.Presences.Get(h.ID)
		return !here
	})
}

// placeNow chooses hosts and makes the instances, in one transaction with the booking of what they take.
func (s *Steps) placeNow(ctx context.Context, c *job.Context) error {
	var args plan.MembersArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	var placed []string
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		placed = placed[:0]
		ds, err := s.store.Datastores.TxGet(tx, c.Job.Object)
		if err != nil {
			return err
		}
		c.SetResult(snapshot{Generation: ds.Generation, Spec: ds.Spec})
		have, err := s.store.Instances.TxBy(tx, "datastore", ds.ID)
		if err != nil {
			return err
		}
		want := slices.DeleteFunc(slices.Clone(args.Ordinals), func(o int) bool { return find(have, o) != nil })
		if len(want) == 0 {
			return nil
		}
		size, err := s.size(ds.Spec.Plan, ds.Spec.StorageGiB)
		if err != nil {
			return err
		}
		hosts, err := placement.Choose(s.candidates(have), placement.Need{Engine: ds.Spec.Engine, Version: ds.Spec.Version,
			Region: ds.Spec.Region, Size: size}, len(want))
		if err != nil {
			return err
		}
		for i, ordinal := range want {
			if err := s.book(tx, hosts[i].ID, size, 1); err != nil {
				return err
			}
			role := orrery.RoleReplica
			if ordinal == 1 && ds.Applied == nil {
				role = orrery.RolePrimary
			}
			in := &orrery.Instance{
				Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixInstance), Name: fmt.Sprintf("%s-%d", ds.Name, ordinal), Project: ds.Project, Generation: 1},
				Spec: orrery.InstanceSpec{Datastore: ds.ID, Host: hosts[i].ID, Ordinal: ordinal, Role: role,
					Plan: ds.Spec.Plan, StorageGiB: int(size.StorageGiB)},
			}
			if err := s.store.Instances.Insert(tx, in); err != nil {
				return err
			}
			placed = append(placed, in.Name+" on host "+hosts[i].Name)
		}
		return nil
	})
	for _, p := range placed {
		c.Logf("%s", p)
	}
	return err
}

// candidates gives every host with what placement asks of it.
func (s *Steps) candidates(members []*orrery.Instance) []placement.Host {
	all := s.store.Hosts.List()
	out := make([]placement.Host, 0, len(all))
	for _, h := range all {
		copied := *h
		_, copied.Status.Connected = s.store.Presences.Get(h.ID)
		pool, _ := s.store.Pools.Get(h.Spec.Pool)
		n := 0
		for _, m := range members {
			if m.Spec.Host == h.ID {
				n++
			}
		}
		out = append(out, placement.Host{Host: &copied, Pool: pool, Members: n})
	}
	return out
}

// size gives what an instance of a plan takes.
func (s *Steps) size(planName string, storageGiB int) (orrery.Capacity, error) {
	plans := s.store.Plans.By("name", planName)
	if len(plans) == 0 {
		return orrery.Capacity{}, orrery.NotFound("plan", planName)
	}
	p := plans[0]
	c := orrery.Capacity{CPUMilli: p.CPUMilli, MemoryMiB: p.MemoryMiB, StorageGiB: p.StorageGiB}
	if storageGiB != 0 {
		c.StorageGiB = int64(storageGiB)
	}
	return c, nil
}

// book adds times·size to what a host has promised; adding is refused where it does not fit any more.
func (s *Steps) book(tx *store.Tx, host string, size orrery.Capacity, times int64) error {
	h, err := s.store.Hosts.TxGet(tx, host)
	if err != nil {
		return ignoreNotFound(err)
	}
	pool, ok := s.store.Pools.Get(h.Spec.Pool)
	if times > 0 && ok && !placement.Fits(h, pool, size) {
		return orrery.Errorf(orrery.KindExhausted, "host %s has no room left", h.Name).WithCode("no_capacity")
	}
	h.Allocated = placement.Add(h.Allocated, size, times)
	return s.store.Hosts.Put(tx, h)
}

// unplace removes what place made.
func (s *Steps) unplace(ctx context.Context, c *job.Context) error {
	var args plan.MembersArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	return s.removeMembers(ctx, c, func(in *orrery.Instance) bool { return slices.Contains(args.Ordinals, in.Spec.Ordinal) })
}

// remove unmakes instances for good.
func (s *Steps) remove(ctx context.Context, c *job.Context) error {
	var args plan.MembersArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	return s.removeMembers(ctx, c, func(in *orrery.Instance) bool {
		return args.All || slices.Contains(args.Ordinals, in.Spec.Ordinal)
	})
}

// removeMembers asks for the absence of instances, waits until their hosts' agents say that nothing is left, and only
// then forgets them and what was booked for them.
func (s *Steps) removeMembers(ctx context.Context, c *job.Context, which func(*orrery.Instance) bool) error {
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		members, err := s.store.Instances.TxBy(tx, "datastore", c.Job.Object)
		if err != nil {
			return err
		}
		for _, in := range members {
			if which(in) && !in.Spec.Absent {
				in.Spec.Absent = true
				if err := s.store.Instances.Put(tx, in); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = s.wait(ctx, c, which, func(in *orrery.Instance) (bool, string, error) {
		if _, ok := s.store.Hosts.Get(in.Spec.Host); !ok {
			return true, "", nil // a host that was removed took its places along
		}
		return in.Status.Place.State == orrery.PlaceAbsent, "waits for its host to remove it", nil
	})
	if err != nil {
		return err
	}
	_, err = c.Update(ctx, func(tx *store.Tx) error {
		tx.Essential()
		members, err := s.store.Instances.TxBy(tx, "datastore", c.Job.Object)
		if err != nil {
			return err
		}
		for _, in := range members {
			if !which(in) {
				continue
			}
			size, err := s.size(in.Spec.Plan, in.Spec.StorageGiB)
			if err != nil {
				return err
			}
			if err := s.book(tx, in.Spec.Host, size, -1); err != nil {
				return err
			}
			if err := s.store.Instances.Delete(tx, in.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// resize gives an instance another plan and books the difference. Its agent and keeper take it on by themselves.
func (s *Steps) resize(ctx context.Context, c *job.Context) error {
	var args plan.ResizeArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	return s.resizeTo(ctx, c, args.Ordinal, args.Plan, args.StorageGiB)
}

// resizeBack gives the instance what the applied spec says.
func (s *Steps) resizeBack(ctx context.Context, c *job.Context) error {
	var args plan.ResizeArgs
	if err := c.Args(&args); err != nil {
		return err
	}
	ds, ok := s.store.Datastores.Get(c.Job.Object)
	if !ok || ds.Applied == nil {
		return nil
	}
	return s.resizeTo(ctx, c, args.Ordinal, ds.Applied.Plan, ds.Applied.StorageGiB)
}

func (s *Steps) resizeTo(ctx context.Context, c *job.Context, ordinal int, planName string, storageGiB int) error {
	_, err := c.Update(ctx, func(tx *store.Tx) error {
		in, err := s.member(tx, c.Job.Object, ordinal)
		if err != nil || in == nil {
			return err
		}
		was, err := s.size(in.Spec.Plan, in.Spec.StorageGiB)
		if err != nil {
			return err
		}
		size, err := s.size(planName, storageGiB)
		if err != nil {
			return err
		}
		if was == size && in.Spec.Plan == planName {
			return nil
		}
		if err := s.book(tx, in.Spec.Host, was, -1); err != nil {
			return err
		}
		if err := s.book(tx, in.Spec.Host, size, 1); err != nil {
			return err
		}
		in.Spec.Plan, in.Spec.StorageGiB = planName, int(size.StorageGiB)
		in.Generation++
		return s.store.Instances.Put(tx, in)
	})
	return err
}

// member gives the instance with an ordinal, nil where there is none.
func (s *Steps) member(tx *store.Tx, datastore string, ordinal int) (*orrery.Instance, error) {
	members, err := s.store.Instances.TxBy(tx, "datastore", datastore)
	if err != nil {
		return nil, err
	}
	return find(members, ordinal), nil
}

func find(list []*orrery.Instance, ordinal int) *orrery.Instance {
	for _, in := range list {
		if in.Spec.Ordinal == ordinal {
			return in
		}
	}
	return nil
}

func decode(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("read a step's result: %w", err)
	}
	return nil
}
