package plan_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

func base(n int) orrery.DatastoreSpec {
	return orrery.DatastoreSpec{Engine: "postgres", Version: "15", Plan: "small", StorageGiB: 10, Instances: n, Replication: orrery.ReplicationAsync}
}

// world is a datastore at generation 4 whose applied spec is was, with was.Instances instances, the first of them primary.
func world(was orrery.DatastoreSpec, change func(*orrery.DatastoreSpec)) plan.Observed {
	want := was
	change(&want)
	o := plan.Observed{Datastore: &orrery.Datastore{Meta: orrery.Meta{Name: "demo", Generation: 4}, Spec: want, Applied: &was, AppliedGeneration: 3}}
	for i := 1; i <= was.Instances; i++ {
		role := orrery.RoleReplica
		if i == 1 {
			role = orrery.RolePrimary
		}
		o.Instances = append(o.Instances, &orrery.Instance{Meta: orrery.Meta{Name: fmt.Sprintf("demo-%d", i)},
			Spec: orrery.InstanceSpec{Ordinal: i, Role: role, RestartSeq: 7}})
	}
	return o
}

func TestGolden(t *testing.T) {
	none := func(*orrery.DatastoreSpec) {}
	fresh := func(n int) plan.Observed {
		return plan.Observed{Datastore: &orrery.Datastore{Meta: orrery.Meta{Name: "demo", Generation: 1}, Spec: base(n)}}
	}
	switched := world(base(3), func(s *orrery.DatastoreSpec) { s.Instances = 1 })
	switched.Instances[0].Spec.Role, switched.Instances[2].Spec.Role = orrery.RoleReplica, orrery.RolePrimary
	gap := world(base(3), func(s *orrery.DatastoreSpec) {})
	gap.Instances = append(gap.Instances[:1], gap.Instances[2])

	for name, steps := range map[string][]orrery.JobStep{
		"create-1":      plan.Create(fresh(1)),
		"create-3":      plan.Create(fresh(3)),
		"create-3-sync": plan.Create(func() plan.Observed { o := fresh(3); o.Datastore.Spec.Replication = orrery.ReplicationSync; return o }()),
		"scale-out":     plan.Update(world(base(1), func(s *orrery.DatastoreSpec) { s.Instances = 3 })),
		"scale-in":      plan.Update(world(base(3), func(s *orrery.DatastoreSpec) { s.Instances = 1 })),
		"scale-in-3p":   plan.Update(switched),
		"fill-gap":      plan.Update(gap),
		"plan-change":   plan.Update(world(base(2), func(s *orrery.DatastoreSpec) { s.Plan = "large"; s.StorageGiB = 20 })),
		"parameters":    plan.Update(world(base(2), func(s *orrery.DatastoreSpec) { s.Parameters = map[string]string{"work_mem": "8MB"} })),
		"to-sync":       plan.Update(world(base(2), func(s *orrery.DatastoreSpec) { s.Replication = orrery.ReplicationSync })),
		"add-user":      plan.Update(world(base(2), func(s *orrery.DatastoreSpec) { s.Users = []orrery.User{{Name: "alice"}} })),
		"scale-resize":  plan.Update(world(base(2), func(s *orrery.DatastoreSpec) { s.Instances = 3; s.Plan = "large" })),
		"no-change":     plan.Update(world(base(2), none)),
		"restart":       plan.Restart(world(base(3), none)),
		"pause":         plan.Pause(world(base(3), none)),
		"resume":        plan.Resume(world(base(3), none)),
		"delete":        plan.Delete(world(base(3), none)),
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			for _, s := range steps {
				fmt.Fprintf(&b, "%-18s %-60s %s\n", s.Name, s.Args, s.Title)
			}
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("plan differs from %s (-want +got; -update writes it anew):\n%s", file, diff)
			}
		})
	}
}
