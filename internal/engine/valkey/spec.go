package valkey

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/orrery-db/orrery"
)

// DefaultUser is the first user's name.
func (*Driver) DefaultUser() string { return "admin" }

// DefaultDatabase is empty: there are no named databases.
func (*Driver) DefaultDatabase() string { return "" }

// SecretForm is the SHA-256 of the password in hex, which is what the server's access lists keep.
func (*Driver) SecretForm(password string) (string, error) {
	if password == "" {
		return "", orrery.Invalid("password", "the password is empty")
	}
	return secretHash(password), nil
}

func secretHash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

var userNameRE = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,62}$`)

// CheckSpec refuses what this engine cannot do.
//
// Trusted sources: the server has no filter for client addresses, only a choice of addresses to listen on. So it takes
// networks of the loopback interface, which is always listened on, and 0.0.0.0/0 or ::/0, which open the instance's
// own address. Anything between would not be enforced and is refused.
func (*Driver) CheckSpec(spec orrery.DatastoreSpec) error {
	if len(spec.Databases) > 0 {
		return orrery.Invalid("databases[0]", "Valkey has no named databases").WithCode("databases_not_supported").
			WithHint("Leave the databases out; keys live in numbered databases that are always there.")
	}
	for i, u := range spec.Users {
		field := fmt.Sprintf("users[%d]", i)
		if !userNameRE.MatchString(u.Name) {
			return orrery.Invalid(field+".name", "the user name %q cannot be used", orrery.Shorten(u.Name, 60)).
				WithHint("Use 1 to 63 letters, digits, dots, hyphens and underscores; start with a letter or an underscore.")
		}
		if u.Name == "default" || strings.HasPrefix(u.Name, reservedPrefix) {
			return orrery.Invalid(field+".name", "the user name %q is reserved", u.Name).WithCode("user_name_reserved").
				WithHint("Take a name other than default and that does not start with %s.", reservedPrefix)
		}
		if len(u.Databases) > 0 {
			return orrery.Invalid(field+".databases", "Valkey cannot limit a user to databases").
				WithCode("databases_not_supported").WithHint("Leave the user's databases out.")
		}
	}
	for i, t := range spec.TrustedSources {
		p, err := parseCIDR(t.CIDR)
		field := fmt.Sprintf("trusted_sources[%d].cidr", i)
		if err != nil {
			return orrery.Invalid(field, "%q is no network", orrery.Shorten(t.CIDR, 60)).
				WithHint("Write a network such as 10.1.0.0/16, or a single address.")
		}
		if p.Bits() != 0 && !loopback(p) {
			return orrery.Invalid(field, "Valkey cannot limit clients to the network %s", p).
				WithCode("trusted_source_not_enforceable").
				WithHint("Valkey does not filter client addresses: use 127.0.0.0/8 and ::1/128 (this host only), or " +
					"0.0.0.0/0 and ::/0 (every address; TLS and a password are still asked for).")
		}
	}
	return nil
}

func parseCIDR(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// loopback tells whether a network lies wholly within the loopback interface's.
func loopback(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() >= 8 && p.Addr().IsLoopback()
	}
	return p.Bits() == 128 && p.Addr().IsLoopback()
}

// CheckParameter refuses what the server spells otherwise than the generic check takes it, and memory beyond the plan.
func (*Driver) CheckParameter(p orrery.Parameter, value string, _ orrery.DatastoreSpec, plan orrery.Plan) error {
	switch {
	case p.Type == orrery.ParameterBool && value != "yes" && value != "no":
		return orrery.Invalid("", "%s is yes or no, not %q", p.Name, orrery.Shorten(value, 60)).WithHint("Write yes or no.")
	case p.Type == orrery.ParameterInt && p.Unit == "B":
		if _, ok := parseMemory(value); !ok {
			return orrery.Invalid("", "%s is a size, not %q", p.Name, orrery.Shorten(value, 60)).
				WithHint("Give whole bytes, or a size such as 64kb, 512mb or 2gb.")
		}
	case p.Type == orrery.ParameterInt:
		if _, err := strconv.ParseInt(value, 10, 64); err != nil {
			return orrery.Invalid("", "%s is a whole number, not %q", p.Name, orrery.Shorten(value, 60)).WithHint("Write its digits only.")
		}
	}
	if p.Name == "maxmemory" {
		n, ok := parseMemory(value)
		if !ok || n <= 0 {
			return orrery.Invalid("", "maxmemory cannot be without a limit").
				WithHint("Give bytes or a size such as 512mb; leave it out to have it follow the plan.")
		}
		if limit := plan.MemoryMiB << 20 / 10 * 9; plan.MemoryMiB > 0 && n > limit {
			return orrery.Invalid("", "maxmemory of %d bytes is more than the plan's memory can hold", n).
				WithCode("parameter_out_of_range").
				WithHint("At most %d MiB of this plan's %d MiB; take a larger plan for more.", limit>>20, plan.MemoryMiB)
		}
	}
	return nil
}

// parseMemory reads a size as the server does: k, m, g are powers of 1000, kb, mb, gb of 1024 (memtoull in its util.c).
func parseMemory(s string) (int64, bool) {
	i := len(s)
	for i > 0 && (s[i-1] < '0' || s[i-1] > '9') {
		i--
	}
	n, err := strconv.ParseInt(s[:i], 10, 64)
	if err != nil {
		return 0, false
	}
	unit, ok := map[string]int64{"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 1e6, "mb": 1 << 20, "g": 1e9, "gb": 1 << 30}[strings.ToLower(s[i:])]
	if !ok || n > (1<<62)/unit {
		return 0, false
	}
	return n * unit, true
}

// Connection gives URLs as most client libraries read them, and a command line.
func (*Driver) Connection(_ orrery.DatastoreSpec, endpoints []orrery.Endpoint, user, _ string) []orrery.ConnectionString {
	var out []orrery.ConnectionString
	uri := func(e orrery.Endpoint) string {
		return "rediss://" + url.PathEscape(user) + ":{password}@" + net.JoinHostPort(e.Address, strconv.Itoa(e.Port)) + "/0"
	}
	var primary, replica *orrery.Endpoint
	for i, e := range endpoints {
		if e.Role == orrery.EndpointPrimary && primary == nil {
			primary = &endpoints[i]
		}
		if e.Role == orrery.EndpointReplica && replica == nil {
			replica = &endpoints[i]
		}
	}
	if primary != nil {
		out = append(out, orrery.ConnectionString{Name: "primary", Text: uri(*primary), Doc: "Reads and writes. Verify the server with the CA certificate."})
	}
	if replica == nil {
		replica = primary
	}
	if replica != nil {
		out = append(out, orrery.ConnectionString{Name: "read_only", Text: uri(*replica), Doc: "Reads that may be a moment old."})
	}
	if primary != nil {
		out = append(out, orrery.ConnectionString{
			Name: "cli",
			Text: fmt.Sprintf("REDISCLI_AUTH='{password}' redis-cli --tls --cacert '{ca}' -h %s -p %d --user %s --no-auth-warning",
				primary.Address, primary.Port, user),
			Doc: "valkey-cli takes the same arguments.",
		})
	}
	return out
}
