// Package plan turns what was asked and what is there into the steps of a job. It is pure: no clock, no I/O, no
// randomness, so that a plan can be read as a golden file (testdata) and made again from the same facts.
package plan

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/orrery-db/orrery"
)

// The steps that plans are made of. internal/step holds a do and an undo for each.
const (
	TakeSpec      = "spec.take"        // remember which generation is rolled out
	PlaceMembers  = "members.place"    // choose hosts and ask for places; its undo removes the instances whole
	ReadyMembers  = "members.ready"    // wait until they serve in their role
	RemoveMembers = "members.remove"   // unmake instances with all that is theirs
	ResizeMember  = "members.resize"   // give an instance another plan or volume
	RestartMember = "members.restart"  // restart one database
	StopMembers   = "members.stop"     // stop databases, keep their data
	StartMembers  = "members.start"    // start stopped databases
	Settle        = "datastore.settle" // wait until every instance has taken on the generation
)

// GenerationArgs is the argument of TakeSpec and Settle.
type GenerationArgs struct {
	Generation int64 `json:"generation"`
}

// MembersArgs is the argument of the steps that work on instances, by ordinal. All asks for whatever is there.
type MembersArgs struct {
	Ordinals []int `json:"ordinals,omitempty"`
	All      bool  `json:"all,omitempty"`
}

// ResizeArgs is the argument of ResizeMember.
type ResizeArgs struct {
	Ordinal    int    `json:"ordinal"`
	Plan       string `json:"plan"`
	StorageGiB int    `json:"storage_gib"`
}

// RestartArgs is the argument of RestartMember. Target is the RestartSeq that the instance shall reach: fixed when the plan
// is made, so that a step that runs twice restarts once.
type RestartArgs struct {
	Ordinal   int   `json:"ordinal"`
	Target    int64 `json:"target"`
	IfPending bool  `json:"if_pending,omitempty"`
}

// Observed is what a plan is made from.
type Observed struct {
	Datastore *orrery.Datastore
	Instances []*orrery.Instance
}

// members splits the instances into the primary and the replicas by ordinal.
func (o Observed) members() (primary *orrery.Instance, replicas []*orrery.Instance) {
	for _, in := range o.Instances {
		if in.Spec.Role == orrery.RolePrimary {
			primary = in
		} else {
			replicas = append(replicas, in)
		}
	}
	slices.SortFunc(replicas, func(a, b *orrery.Instance) int { return cmp.Compare(a.Spec.Ordinal, b.Spec.Ordinal) })
	return primary, replicas
}

// Create plans a new datastore: all places at once, then the primary, then all replicas side by side.
func Create(o Observed) []orrery.JobStep {
	n := o.Datastore.Spec.Instances
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	steps := []orrery.JobStep{
		step(PlaceMembers, MembersArgs{Ordinals: all}, "Find %s a place", count(n, "instance")),
		step(ReadyMembers, MembersArgs{Ordinals: all[:1]}, "Start the primary"),
	}
	if n > 1 {
		steps = append(steps, step(ReadyMembers, MembersArgs{Ordinals: all[1:]}, "Clone and start %s", count(n-1, "replica")))
	}
	if n > 1 && o.Datastore.Spec.Replication == orrery.ReplicationSync {
		steps = append(steps, step(Settle, GenerationArgs{o.Datastore.Generation}, "Wait until commits wait for replicas"))
	}
	return steps
}

// Update plans whatever differs between the applied spec and the wanted one. Removing comes last, when all that is new
// works: it is the one step that has no way back. Whatever needs a restart is restarted replicas first, and last the replicas again that had to wait for
// their primary (PostgreSQL refuses a standby whose limits are below its primary's).
func Update(o Observed) []orrery.JobStep {
	ds := o.Datastore
	was, want := applied(ds), ds.Spec
	primary, replicas := o.members()
	steps := []orrery.JobStep{step(TakeSpec, GenerationArgs{ds.Generation}, "Take on %s", changes(was, want))}

	if added := missing(o.Instances, want.Instances); len(added) > 0 {
		steps = append(steps,
			step(PlaceMembers, MembersArgs{Ordinals: added}, "Find %s a place", count(len(added), "new instance")),
			step(ReadyMembers, MembersArgs{Ordinals: added}, "Clone and start %s", count(len(added), "replica")))
	}
	removed := surplus(primary, replicas, want.Instances)
	stays := slices.DeleteFunc(slices.Clone(replicas), func(in *orrery.Instance) bool {
		return slices.Contains(removed, in.Spec.Ordinal)
	})
	rolling := slices.Clone(stays)
	if primary != nil {
		rolling = append(rolling, primary)
	}
	resize := want.Plan != was.Plan || want.StorageGiB != was.StorageGiB
	if resize {
		for _, in := range rolling {
			steps = append(steps, step(ResizeMember, ResizeArgs{in.Spec.Ordinal, want.Plan, want.StorageGiB},
				"Give %s the plan %s", in.Name, want.Plan))
		}
	}
	steps = append(steps, step(Settle, GenerationArgs{ds.Generation}, "Wait until every instance has it"))
	if resize || want.Replication != was.Replication || want.Instances != was.Instances || !maps.Equal(want.Parameters, was.Parameters) {
		for _, in := range rolling {
			steps = append(steps, step(RestartMember, RestartArgs{in.Spec.Ordinal, in.Spec.RestartSeq + 1, true}, "Restart %s if it must", in.Name))
		}
		if primary != nil {
			for _, in := range stays {
				steps = append(steps, step(RestartMember, RestartArgs{in.Spec.Ordinal, in.Spec.RestartSeq + 2, true}, "Restart %s again if it must", in.Name))
			}
		}
	}
	if len(removed) > 0 {
		steps = append(steps, step(RemoveMembers, MembersArgs{Ordinals: removed}, "Remove %s", count(len(removed), "replica")))
	}
	return steps
}

// Restart plans a rolling restart: replicas one by one, then the primary.
func Restart(o Observed) []orrery.JobStep {
	primary, replicas := o.members()
	steps := []orrery.JobStep{step(TakeSpec, GenerationArgs{o.Datastore.Generation}, "Note the restart")}
	for _, in := range replicas {
		steps = append(steps, step(RestartMember, RestartArgs{in.Spec.Ordinal, in.Spec.RestartSeq + 1, false}, "Restart %s", in.Name))
	}
	if primary != nil {
		steps = append(steps, step(RestartMember, RestartArgs{primary.Spec.Ordinal, primary.Spec.RestartSeq + 1, false}, "Restart the primary, %s", primary.Name))
	}
	return steps
}

// Pause plans a stop: the primary first, so that its replicas receive all it has written.
func Pause(o Observed) []orrery.JobStep {
	return stopStart(o, StopMembers, "Pause", "Stop the primary", "Stop %s")
}

// Resume plans a start: the primary first, then all replicas.
func Resume(o Observed) []orrery.JobStep {
	return stopStart(o, StartMembers, "Resume", "Start the primary", "Start %s")
}

func stopStart(o Observed, name, take, first, rest string) []orrery.JobStep {
	primary, replicas := o.members()
	steps := []orrery.JobStep{step(TakeSpec, GenerationArgs{o.Datastore.Generation}, "%s", take)}
	if primary != nil {
		steps = append(steps, step(name, MembersArgs{Ordinals: []int{primary.Spec.Ordinal}}, "%s", first))
	}
	if len(replicas) > 0 {
		steps = append(steps, step(name, MembersArgs{Ordinals: ordinals(replicas)}, rest, count(len(replicas), "replica")))
	}
	return steps
}

// Delete plans the end. It does not look at what is there: whatever is there when it runs goes. The datastore itself
// goes in the job's last transaction.
func Delete(Observed) []orrery.JobStep {
	return []orrery.JobStep{
		step(RemoveMembers, MembersArgs{All: true}, "Remove all instances with their data"),
	}
}

func applied(ds *orrery.Datastore) orrery.DatastoreSpec {
	if ds.Applied == nil {
		return orrery.DatastoreSpec{}
	}
	return *ds.Applied
}

// missing gives the lowest free ordinals that bring the members to n.
func missing(have []*orrery.Instance, n int) (free []int) {
	taken := ordinals(have)
	for o := 1; len(have)+len(free) < n; o++ {
		if !slices.Contains(taken, o) {
			free = append(free, o)
		}
	}
	return free
}

// surplus gives the replicas that are too many: those with the highest ordinals, never the primary.
func surplus(primary *orrery.Instance, replicas []*orrery.Instance, n int) (gone []int) {
	have := len(replicas)
	if primary != nil {
		have++
	}
	for i := len(replicas) - 1; i >= 0 && have-len(gone) > n; i-- {
		gone = append(gone, replicas[i].Spec.Ordinal)
	}
	return gone
}

func ordinals(list []*orrery.Instance) []int {
	out := make([]int, len(list))
	for i, in := range list {
		out[i] = in.Spec.Ordinal
	}
	return out
}

// changes names what differs, for people.
func changes(was, want orrery.DatastoreSpec) string {
	var c []string
	add := func(changed bool, format string, args ...any) {
		if changed {
			c = append(c, fmt.Sprintf(format, args...))
		}
	}
	add(was.Instances != want.Instances, "%s", count(want.Instances, "instance"))
	add(was.Plan != want.Plan, "plan %s", want.Plan)
	add(was.StorageGiB != want.StorageGiB, "%d GiB of storage", want.StorageGiB)
	add(was.Replication != want.Replication, "%s replication", want.Replication)
	add(!maps.Equal(was.Parameters, want.Parameters), "parameters")
	add(!slices.EqualFunc(was.Users, want.Users, sameUser), "users")
	add(!slices.Equal(was.Databases, want.Databases), "databases")
	add(!slices.Equal(was.TrustedSources, want.TrustedSources), "trusted sources")
	add(was.DeletionProtection != want.DeletionProtection, "deletion protection")
	if len(c) == 0 {
		return "the specification"
	}
	return strings.Join(c, ", ")
}

func sameUser(a, b orrery.User) bool {
	return a.Name == b.Name && a.Access == b.Access && a.SecretVersion == b.SecretVersion && slices.Equal(a.Databases, b.Databases)
}

func step(name string, args any, title string, values ...any) orrery.JobStep {
	b, _ := json.Marshal(args) // this package's own plain structs: cannot fail
	return orrery.JobStep{Name: name, Title: fmt.Sprintf(title, values...), Args: b, State: orrery.StepPending}
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
