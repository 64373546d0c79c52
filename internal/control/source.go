package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
)

// defaultSources let only the database's own host in.
func defaultSources() []orrery.TrustedSource {
	return []orrery.TrustedSource{
		{CIDR: "127.0.0.1/32", Description: "The host itself."}, {CIDR: "::1/128", Description: "The host itself."}}
}

// normalCIDR gives a network in the one form in which it is stored. A single address is a network of one.
func normalCIDR(field, s string) (string, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" && !addr.Is4In6() {
		return netip.PrefixFrom(addr, addr.BitLen()).String(), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return "", orrery.Invalid(field, "%q is not a network", orrery.Shorten(s, 60)).WithCode("cidr_malformed").
			WithHint("Write a network such as 10.1.0.0/16 or 2001:db8::/32, or a single address.")
	}
	if m := p.Masked(); m != p {
		return "", orrery.Invalid(field, "%s has bits set beyond its prefix", p).WithCode("cidr_host_bits").
			WithHint("Write %s for the network, or %s/%d for the single address.", m, p.Addr(), p.Addr().BitLen())
	}
	return p.String(), nil
}

func checkSources(spec *orrery.DatastoreSpec) error {
	if len(spec.TrustedSources) > maxSources {
		return orrery.Invalid("spec.trusted_sources", "a datastore has at most %d trusted sources", maxSources)
	}
	for i := range spec.TrustedSources {
		t := &spec.TrustedSources[i]
		field := fmt.Sprintf("spec.trusted_sources[%d]", i)
		cidr, err := normalCIDR(field+".cidr", t.CIDR)
		if err != nil {
			return err
		}
		t.CIDR = cidr
		if len(t.Description) > maxDescription {
			return orrery.Invalid(field+".description", "a description has at most %d bytes", maxDescription)
		}
		if slices.ContainsFunc(spec.TrustedSources[:i], func(o orrery.TrustedSource) bool { return o.CIDR == cidr }) {
			return orrery.Invalid(field+".cidr", "the network %s is there twice", cidr).WithCode("trusted_source_twice")
		}
	}
	return nil
}

// AddTrustedSource lets a network connect.
func (c *Control) AddTrustedSource(ctx context.Context, m api.Mutation, project, datastore string, t orrery.TrustedSource) (api.Changed, error) {
	cidr, err := normalCIDR("cidr", t.CIDR)
	if err != nil {
		return api.Changed{}, err
	}
	part := func(s *orrery.DatastoreSpec) string {
		return fmt.Sprintf("spec.trusted_sources[%d]", len(s.TrustedSources)-1)
	}
	return c.change(ctx, m, project, datastore, edit{part: part, spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		if slices.ContainsFunc(s.TrustedSources, func(o orrery.TrustedSource) bool { return o.CIDR == cidr }) {
			return orrery.Errorf(orrery.KindConflict, "the network %s may connect already", cidr).WithCode("trusted_source_exists")
		}
		s.TrustedSources = append(s.TrustedSources, orrery.TrustedSource{CIDR: cidr, Description: t.Description})
		return nil
	}})
}

// RemoveTrustedSource lets a network connect no longer.
func (c *Control) RemoveTrustedSource(ctx context.Context, m api.Mutation, project, datastore, given string) (api.Changed, error) {
	cidr, err := normalCIDR("cidr", given)
	if err != nil {
		return api.Changed{}, err
	}
	return c.change(ctx, m, project, datastore, edit{spec: func(s *orrery.DatastoreSpec, _ *orrery.Datastore) error {
		at := slices.IndexFunc(s.TrustedSources, func(o orrery.TrustedSource) bool { return o.CIDR == cidr })
		if at < 0 {
			return orrery.NotFound("trusted source", cidr).WithCode("trusted_source_not_found")
		}
		s.TrustedSources = slices.Delete(s.TrustedSources, at, at+1)
		return nil
	}})
}
