package valkey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/engine"
)

// Users of Orrery's own. Names with the prefix are refused from people.
const (
	reservedPrefix = "orrery-"
	keeperUser     = reservedPrefix + "keeper" // the keeper's, over the unix socket
	memberUser     = reservedPrefix + "member" // a replica's, on its primary
)

// access maps the levels to the server's rules. What administers the server itself stays with Orrery: a person who
// could CONFIG, ACL, REPLICAOF or SHUTDOWN would undo what the datastore's spec says.
func access(a orrery.Access) string {
	switch a {
	case orrery.AccessAdmin:
		return "~* &* +@all -@admin -@dangerous +info +keys +role +sort +sort_ro +restore +flushdb +flushall +swapdb +lastsave " +
			"+client|list +client|kill +slowlog|get +slowlog|len +slowlog|reset +latency|latest +latency|histogram"
	case orrery.AccessReadWrite:
		return "~* &* +@all -@admin -@dangerous +info +keys +role +sort +sort_ro"
	default:
		// A script's commands are checked one by one, so the read-only forms of the script commands are safe to give.
		return "%R~* resetchannels -@all +@read +@connection +@transaction +eval_ro +evalsha_ro +fcall_ro -@dangerous +info +keys +role +sort_ro"
	}
}

// aclUser is one line of the access list: the arguments of ACL SETUSER after the name, without the leading reset.
type aclUser struct {
	name  string
	rules string
}

// users gives the access list for d.
func users(d engine.Desired, keeperSecret string) []aclUser {
	list := []aclUser{
		{"default", "off resetpass resetkeys resetchannels -@all"},
		{keeperUser, "on #" + secretHash(keeperSecret) + " ~* &* +@all"},
	}
	if d.MemberSecret != "" {
		list = append(list, aclUser{memberUser, "on #" + secretHash(d.MemberSecret) + " resetkeys resetchannels -@all +ping +psync +replconf"})
	}
	for _, u := range d.Users {
		if u.Secret == "" {
			continue // cannot log in before it has a password
		}
		list = append(list, aclUser{u.Name, "on #" + u.Secret + " " + access(u.Access)})
	}
	return list
}

// checkUsers refuses what could change the meaning of the access list's lines. The API has checked it before.
func checkUsers(d engine.Desired) error {
	for _, u := range d.Users {
		if !userNameRE.MatchString(u.Name) || strings.HasPrefix(u.Name, reservedPrefix) || u.Name == "default" {
			return orrery.Invalid("users", "the user name %q cannot be used", orrery.Shorten(u.Name, 60)).WithCode("user_rejected")
		}
		if u.Secret != "" && (len(u.Secret) != 64 || strings.Trim(u.Secret, "0123456789abcdef") != "") {
			return orrery.Invalid("users", "the secret of user %q is not of this engine's form", u.Name).WithCode("user_rejected")
		}
	}
	return nil
}

func aclFile(list []aclUser) []byte {
	var b strings.Builder
	for _, u := range list {
		fmt.Fprintf(&b, "user %s %s\n", u.name, u.rules)
	}
	return []byte(b.String())
}

// parseACLFile reads what aclFile wrote.
func parseACLFile(data []byte) []aclUser {
	var list []aclUser
	for line := range strings.Lines(string(data)) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "user ")
		if !ok {
			continue
		}
		name, rules, _ := strings.Cut(rest, " ")
		list = append(list, aclUser{name, rules})
	}
	return list
}

// keeperSecret reads the secret of the keeper's user, and makes it at the first time.
func (s *server) keeperSecret() (string, error) {
	path := s.path("conf", "keeper.secret")
	b, err := os.ReadFile(path)
	if err == nil && len(b) > 0 { // empty where the host lost its power as it was written
		return string(b), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	secret := rand.Text()
	return secret, writeFile(path, []byte(secret))
}
