package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/orrery-db/orrery/internal/iam"
)

// operations walks what the API's own document lists, so that a new operation is tested without being told of.
func operations(t *testing.T, p *plane) map[string]map[string]struct {
	OperationID string                `json:"operationId"`
	Security    []map[string][]string `json:"security"`
} {
	t.Helper()
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			OperationID string                `json:"operationId"`
			Security    []map[string][]string `json:"security"`
		} `json:"paths"`
	}
	a := p.ok("GET", "/openapi.json", nil, "Authorization", "")
	if err := json.Unmarshal(a.body, &doc); err != nil || doc.OpenAPI != "3.1.0" || len(doc.Paths) < 30 {
		t.Fatalf("%v: %s, %d paths", err, doc.OpenAPI, len(doc.Paths))
	}
	return doc.Paths
}

// open lists the operations that need no token. It may only shrink.
var open = map[string]bool{"get-health": true, "get-readiness": true}

func TestEveryOperationAsksForAToken(t *testing.T) {
	p := newPlane(t)
	p.addHost()
	p.create("demo")
	revokedID, revoked := p.newToken(iam.RoleAdmin)
	p.ok("DELETE", "/v1/tokens/"+revokedID, nil)
	_, viewer := p.newToken(iam.RoleViewer)
	_, hostJoin := p.newToken(iam.RoleHostJoin)
	replace := strings.NewReplacer("{project}", "default", "{datastore}", "demo", "{user}", "admin", "{database}", "app", "{cidr}", "127.0.0.1",
		"{job}", "jo-0000000000000000", "{token}", "to-0000000000000000", "{host}", "h1", "{pool}", "local", "{instance}", "demo-1",
		"{engine}", "postgres", "{version}", "15")
	count := 0
	for path, methods := range operations(t, p) {
		for method, op := range methods {
			count++
			method, target := strings.ToUpper(method), replace.Replace(path)
			if open[op.OperationID] {
				if a := p.do(method, target, nil, "Authorization", ""); a.status != http.StatusOK || len(op.Security) > 0 {
					t.Errorf("%s: %d", op.OperationID, a.status)
				}
				continue
			}
			if len(op.Security) != 1 {
				t.Errorf("%s: the document asks for no token", op.OperationID)
			}
			for who, tc := range map[string]struct{ header, code string }{
				"nobody": {"", "token_missing"}, "garbage": {"Bearer garbage", "token_malformed"},
				"somebody else": {"Bearer orr_0000000000000000_abc", "token_unknown"}, "revoked": {"Bearer " + revoked, "token_revoked"},
				"a host": {"Bearer " + hostJoin, "token_unknown"},
			} {
				a := p.do(method, target, nil, "Authorization", tc.header)
				if a.status != http.StatusUnauthorized || a.problem().Code != tc.code || a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s as %s: %d %s", op.OperationID, who, a.status, a.body)
				}
			}
			a := p.do(method, target, nil, "Authorization", "Bearer "+viewer)
			if mayNot := method != http.MethodGet || op.OperationID == "list-tokens"; (a.status == http.StatusForbidden) != mayNot {
				t.Errorf("%s as a viewer: %d %s", op.OperationID, a.status, a.body)
			}
		}
	}
	if count < 45 {
		t.Fatalf("only %d operations were seen", count)
	}
	if p.store.Datastores.Len() != 1 || p.store.Jobs.Len() != 1 {
		t.Fatal("something was done without leave")
	}
}

func TestTokens(t *testing.T) {
	p := newPlane(t)
	type made struct {
		Token  struct{ ID, Name, Hash, Role string }
		Secret string
	}
	m := into[made](t, p.ok("POST", "/v1/tokens", `{"name":"ci","role":"viewer"}`))
	auth := "Bearer " + m.Secret
	p.ok("GET", "/v1/plans", nil, "Authorization", auth)
	p.refused(403, "role_insufficient", "", "POST", "/v1/projects", `{"name":"x"}`, "Authorization", auth)
	p.refused(409, "name_taken", "name", "POST", "/v1/tokens", `{"name":"ci"}`)
	p.refused(400, "role_unknown", "role", "POST", "/v1/tokens", `{"name":"ci2","role":"root"}`)
	p.refused(400, "invalid", "expires_at", "POST", "/v1/tokens", `{"name":"ci2","expires_at":"2001-01-01T00:00:00Z"}`)
	p.refused(400, "wrong_type", "expires_at", "POST", "/v1/tokens", `{"name":"ci2","expires_at":"soon"}`)
	if list := string(p.ok("GET", "/v1/tokens", nil).body); strings.Contains(list, "hash") || !strings.Contains(list, `"ci"`) {
		t.Fatal(list)
	}
	p.ok("DELETE", "/v1/tokens/ci", nil)
	p.refused(401, "token_revoked", "", "GET", "/v1/plans", nil, "Authorization", auth)
	p.ok("DELETE", "/v1/tokens/"+m.Token.ID, nil)               // again
	p.ok("POST", "/v1/tokens", `{"name":"ci","role":"viewer"}`) // its name is free again
	p.refused(404, "token_not_found", "", "DELETE", "/v1/tokens/nothing", nil)

	replayed := p.ok("POST", "/v1/tokens", `{"name":"once"}`, "Idempotency-Key", "t")
	again := p.ok("POST", "/v1/tokens", `{"name":"once"}`, "Idempotency-Key", "t")
	one, two := into[made](t, replayed), into[made](t, again)
	if one.Token.ID != two.Token.ID || one.Secret == "" || two.Secret != "" {
		t.Fatalf("%s\n%s", replayed.body, again.body)
	}
}

func TestJoinTokens(t *testing.T) {
	p := newPlane(t)
	type join struct{ Token string }
	j := into[join](t, p.ok("POST", "/v1/hosts/join-tokens", nil))
	if parts := strings.Split(j.Token, "."); len(parts) != 3 || parts[2] != "c0ffee" {
		t.Fatal(j.Token)
	}
	stored, err := iam.CheckJoinToken(j.Token, p.store.Tokens.Get, p.store.Tokens.List()[0].CreatedAt)
	if err != nil || stored.ExpiresAt == nil || strings.Contains(stored.Hash, strings.Split(j.Token, ".")[1]) {
		t.Fatal(stored, err)
	}
	p.refused(400, "invalid", "valid_for_seconds", "POST", "/v1/hosts/join-tokens", `{"valid_for_seconds":5}`)
	if list := string(p.ok("GET", "/v1/tokens", nil).body); strings.Contains(list, "join-") {
		t.Fatal(list)
	}
}

func TestBootstrapTokenIsMadeOnce(t *testing.T) {
	p := newPlane(t)
	if again, err := p.control.EnsureBootstrapToken(t.Context()); err != nil || again != "" {
		t.Fatal(again, err)
	}
	p.ok("DELETE", "/v1/tokens/bootstrap", nil)
	if again, err := p.control.EnsureBootstrapToken(t.Context()); err != nil || again != "" {
		t.Fatal("a revoked bootstrap token came back", err)
	}
	p.refused(401, "token_revoked", "", "GET", "/v1/plans", nil)
}
