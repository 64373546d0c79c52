package store

import "github.com/orrery-db/orrery"

// defineCollections lists what is stored, each with its indexes and the version of its stored form. Whoever changes a
// type so that older stored values would be misread raises its version here by giving one more upgrade.
func (s *Store) defineCollections() {
	s.Projects = define(s, "projects", "project", schema[orrery.Project]{unique: true,
		indexes: indexes[orrery.Project]{"name": func(o *orrery.Project) []string { return nameKey(&o.Meta) }}})
	s.Datastores = define(s, "datastores", "datastore", schema[orrery.Datastore]{unique: true,
		indexes: indexes[orrery.Datastore]{
			"name":    func(o *orrery.Datastore) []string { return nameKey(&o.Meta) },
			"project": func(o *orrery.Datastore) []string { return some(o.Project) },
		}})
	// An instance's name follows from its datastore's, which is unique already.
	s.Instances = define(s, "instances", "instance", schema[orrery.Instance]{
		indexes: indexes[orrery.Instance]{
			"name":      func(o *orrery.Instance) []string { return nameKey(&o.Meta) },
			"project":   func(o *orrery.Instance) []string { return some(o.Project) },
			"datastore": func(o *orrery.Instance) []string { return some(o.Spec.Datastore) },
			"host":      func(o *orrery.Instance) []string { return some(o.Spec.Host) },
		}})
	s.Hosts = define(s, "hosts", "host", schema[orrery.Host]{unique: true,
		indexes: indexes[orrery.Host]{
			"name": func(o *orrery.Host) []string { return nameKey(&o.Meta) },
			"pool": func(o *orrery.Host) []string { return some(o.Spec.Pool) },
		}})
	s.Pools = define(s, "pools", "pool", schema[orrery.Pool]{unique: true,
		indexes: indexes[orrery.Pool]{
			"name":   func(o *orrery.Pool) []string { return nameKey(&o.Meta) },
			"region": func(o *orrery.Pool) []string { return some(o.Spec.Region) },
		}})
	s.Regions = define(s, "regions", "region", schema[orrery.Region]{unique: true,
		indexes: indexes[orrery.Region]{"name": func(o *orrery.Region) []string { return nameKey(&o.Meta) }}})
	s.Plans = define(s, "plans", "plan", schema[orrery.Plan]{unique: true,
		indexes: indexes[orrery.Plan]{"name": func(o *orrery.Plan) []string { return nameKey(&o.Meta) }}})
	s.Jobs = define(s, "jobs", "job", schema[orrery.Job]{
		indexes: indexes[orrery.Job]{
			"project": func(o *orrery.Job) []string { return some(o.Project) },
			"object":  func(o *orrery.Job) []string { return some(o.Object) },
			"state":   func(o *orrery.Job) []string { return some(string(o.State)) },
			"owner":   func(o *orrery.Job) []string { return some(o.Owner) },
		}})
	s.Events = define(s, "events", "event", schema[orrery.Event]{
		indexes: indexes[orrery.Event]{
			"project": func(o *orrery.Event) []string { return some(o.Project) },
			"object":  func(o *orrery.Event) []string { return some(o.Object) },
		}})
	s.Tokens = define(s, "tokens", "token", schema[orrery.Token]{unique: true,
		indexes: indexes[orrery.Token]{"name": func(o *orrery.Token) []string { return nameKey(&o.Meta) }}})
	s.Catalogues = define(s, "catalogues", "parameter catalogue", schema[orrery.ParameterCatalogue]{unique: true,
		indexes: indexes[orrery.ParameterCatalogue]{
			"name":   func(o *orrery.ParameterCatalogue) []string { return nameKey(&o.Meta) },
			"engine": func(o *orrery.ParameterCatalogue) []string { return some(o.Engine) },
		}})
	s.Secrets = define(s, "secrets", "secret", schema[Secret]{
		indexes: indexes[Secret]{"owner": func(o *Secret) []string { return some(firstSegment(o.ID)) }}})
	s.Requests = define(s, "requests", "request", schema[Request]{})
	claims := schema[Claim]{indexes: indexes[Claim]{"owner": func(o *Claim) []string { return some(o.Owner) }}}
	s.Claims = define(s, "claims", "claim", claims)
	s.Locks = define(s, "locks", "lock", claims)
	s.Presences = define(s, "presences", "presence", claims)
}

// nameKey is the key of the index "name", and what is kept unique: the name, with the project's ID before it where
// there is a project.
func nameKey(m *orrery.Meta) []string {
	if m.Name == "" {
		return nil
	}
	if m.Project == "" {
		return []string{m.Name}
	}
	return []string{m.Project + "/" + m.Name}
}

func some(key string) []string {
	if key == "" {
		return nil
	}
	return []string{key}
}

func firstSegment(id string) string {
	for i := range len(id) {
		if id[i] == '/' {
			return id[:i]
		}
	}
	return id
}
