package session

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
)

func TestJoinWishReport(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			noLeaks(t)
			p := newTestPlane(t)
			address := "127.0.0.1:0"
			if network == "unix" {
				address = "unix:" + shortDir(t) + "/s.sock"
			}
			s := startServer(t, p, address, nil)
			who := newKeeperID()
			p.wish(who, Wish{Generation: 7, Body: json.RawMessage(`{"desired":{"instance":"x"}}`)})
			dir := shortDir(t)
			c := startClient(t, ClientConfig{Dir: dir, Servers: []string{s.address}, Token: p.token(who, time.Hour), Version: "v1"})
			c.Report(KeeperReport{Generation: 1, Database: orrery.DatabaseStatus{SystemID: "42"}})

			if sess := receive(t, p.begun, "the session"); sess.who != who || sess.hello.Version != "v1" || sess.hello.Generation != 0 {
				t.Fatalf("the session is %v %+v", sess.who, sess.hello)
			}
			if w := receive(t, c.wishes, "the wish"); w.Generation != 7 || string(w.Body) != `{"desired":{"instance":"x"}}` {
				t.Fatalf("the wish is %d %s", w.Generation, w.Body)
			}
			if r := receive(t, p.reports, "the report"); r.who != who || r.keeper.Database.SystemID != "42" {
				t.Fatalf("the report is %+v", r)
			}
			for path, mode := range map[string]os.FileMode{dir: 0o700, identityPath(dir): 0o600} {
				if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != mode {
					t.Errorf("%s: %v, %v; want mode %v", path, fi.Mode(), err, mode)
				}
			}
		})
	}
}
