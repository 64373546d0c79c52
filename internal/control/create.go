package control

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/engine"
	"github.com/orrery-db/orrery/internal/iam"
	"github.com/orrery-db/orrery/internal/job"
	"github.com/orrery-db/orrery/internal/store"
)

// The kinds of jobs that this package asks for.
const (
	jobCreate  = "datastore.create"
	jobUpdate  = "datastore.update"
	jobRestart = "datastore.restart"
	jobPause   = "datastore.pause"
	jobResume  = "datastore.resume"
	jobDelete  = "datastore.delete"
)

// jobInput is what a job is told beside its object.
type jobInput struct {
	// Generation of the datastore that the job is to make true.
	Generation int64 `json:"generation"`
}

func (c *Control) enqueue(tx *store.Tx, kind string, ds *orrery.Datastore, by iam.Principal) (*orrery.Job, error) {
	input, err := json.Marshal(jobInput{ds.Generation})
	if err != nil {
		return nil, fmt.Errorf("encode the input of %s: %w", kind, err)
	}
	j := &orrery.Job{Meta: orrery.Meta{Project: ds.Project}, Kind: kind, Object: ds.ID, ObjectName: ds.Name, Input: input,
		RequestedBy: by.String()}
	return j, job.Enqueue(tx, c.store, j)
}

// CreateDatastore stores a datastore and the job that makes it.
func (c *Control) CreateDatastore(ctx context.Context, m api.Mutation, project string, n api.NewDatastore) (api.Changed, error) {
	p, err := c.project(project)
	if err != nil {
		return api.Changed{}, err
	}
	if err := orrery.CheckName("name", n.Name); err != nil {
		return api.Changed{}, err
	}
	labels, err := checkLabels(nil, toPatch(n.Labels))
	if err != nil {
		return api.Changed{}, err
	}
	ds := orrery.Datastore{Meta: orrery.Meta{ID: orrery.NewID(orrery.PrefixDatastore), Name: n.Name, Project: p.ID, Generation: 1, Labels: labels},
		Spec: n.Spec.DatastoreSpec, Status: orrery.DatastoreStatus{State: orrery.DatastoreCreating}}
	def, err := c.definition(ds.Spec.Engine)
	if err != nil {
		return api.Changed{}, err
	}
	fillDefaults(def, &ds.Spec)
	if err := c.checkRegion(ds.Spec.Region); err != nil {
		return api.Changed{}, err
	}
	if err := c.checkSpec(&ds.Spec, nil); err != nil {
		return api.Changed{}, err
	}
	forms := make([]string, len(ds.Spec.Users))
	var credentials *api.Credentials
	for i, u := range ds.Spec.Users {
		given := "" // further users get a password that nobody knows, until theirs is reset
		if i == 0 {
			given = n.Password
		}
		password, err := passwordOr(given, "password")
		if err != nil {
			return api.Changed{}, err
		}
		if i == 0 {
			credentials = &api.Credentials{Username: u.Name, Password: password}
		}
		if forms[i], err = def.SecretForm(password); err != nil {
			return api.Changed{}, blame(err, "password")
		}
	}
	member := newSecret(32)
	ch, replayed, err := mutate(ctx, c, m, withoutPassword, func(tx *store.Tx) (api.Changed, error) {
		if _, err := c.store.Projects.TxGet(tx, p.ID); err != nil { // it may be deleted at this moment
			return api.Changed{}, err
		}
		obj := ds // a transaction that runs again begins with the object as it was
		if err := c.store.Datastores.Insert(tx, &obj); err != nil {
			return api.Changed{}, nameTaken(err)
		}
		for i, u := range obj.Spec.Users {
			if err := c.sealForm(tx, obj.ID, u.Name, forms[i]); err != nil {
				return api.Changed{}, err
			}
		}
		if err := c.store.PutSecret(tx, MemberSecretID(obj.ID), []byte(member)); err != nil {
			return api.Changed{}, fmt.Errorf("seal the members' secret: %w", err)
		}
		j, err := c.enqueue(tx, jobCreate, &obj, m.Principal)
		return api.Changed{Datastore: &obj, Job: j, Credentials: credentials}, err
	})
	return c.finish(ch, replayed, err)
}

// nameTaken blames the field.
func nameTaken(err error) error {
	if orrery.KindOf(err) == orrery.KindConflict {
		return blame(err, "name")
	}
	return err
}

// fillDefaults fills in what the spec leaves open and needs no look at the state.
func fillDefaults(def engine.Definition, spec *orrery.DatastoreSpec) {
	if spec.Plan == "" {
		spec.Plan = DefaultPlan
	}
	if spec.Region == "" {
		spec.Region = DefaultRegion
	}
	if spec.Instances == 0 {
		spec.Instances = 1
	}
	if spec.Replication == "" {
		// Asynchronous: a commit that waits for replicas also waits for their repair. Who wants no loss asks for sync.
		spec.Replication = orrery.ReplicationAsync
		if modes := def.Engine().Replication; len(modes) > 0 {
			spec.Replication = modes[0]
		}
	}
	if len(spec.Users) == 0 {
		spec.Users = []orrery.User{{Name: def.DefaultUser(), Access: orrery.AccessAdmin}}
	}
	if name := def.DefaultDatabase(); len(spec.Databases) == 0 && name != "" {
		spec.Databases = []orrery.Database{{Name: name}}
	}
	if spec.TrustedSources == nil {
		spec.TrustedSources = defaultSources()
	}
	for i := range spec.Users {
		spec.Users[i].SecretVersion = 1
	}
}

func (c *Control) checkRegion(region string) error {
	if len(c.store.Regions.By("name", region)) > 0 {
		return nil
	}
	return orrery.Invalid("spec.region", "there is no region %q", orrery.Shorten(region, 60)).WithCode("region_unknown").
		WithHint("GET /v1/regions lists them.")
}

// withoutPassword is what is kept of an answer.
func withoutPassword(ch api.Changed) api.Changed {
	if ch.Credentials != nil {
		ch.Credentials = &api.Credentials{Username: ch.Credentials.Username,
			Hint: "The password was shown once, with the first answer to this request, and is not kept. Reset it if it was lost."}
	}
	return ch
}

// finish brings the answer of a change into the form that is sent.
func (c *Control) finish(ch api.Changed, replayed bool, err error) (api.Changed, error) {
	if err != nil {
		return api.Changed{}, err
	}
	ch.Replayed = replayed
	if ch.Job == nil || replayed {
		return ch, nil
	}
	// When etcd's answer was lost, an earlier run of the transaction may be the one that was done, with a job of its own.
	if _, ok := c.store.Jobs.Get(ch.Job.ID); !ok && ch.Datastore != nil {
		for _, j := range c.store.Jobs.By("object", ch.Datastore.ID) {
			if j.Kind == ch.Job.Kind && string(j.Input) == string(ch.Job.Input) {
				ch.Job = j
			}
		}
	}
	return ch, nil
}
