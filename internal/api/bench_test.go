package api_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/orrery-db/orrery"
	"github.com/orrery-db/orrery/internal/api"
	"github.com/orrery-db/orrery/internal/store"
)

// BenchmarkReads measures reads over TLS against the same bytes served by a bare net/http handler, in turns, and
// reports how many of the handler's requests the API answers in the same time.
func BenchmarkReads(b *testing.B) {
	p := newPlane(b)
	p.addHost()
	p.create("demo")
	p.fill(10_000)
	for name, path := range map[string]string{"get": stores + "/d05000", "list-100-of-10000": stores + "?limit=100", "list-100-page-50": ""} {
		if path == "" {
			page := into[struct {
				Cursor string `json:"next_cursor"`
			}](b, p.ok("GET", stores+"?limit=1000", nil))
			for range 4 {
				page = into[struct {
					Cursor string `json:"next_cursor"`
				}](b, p.ok("GET", stores+"?limit=1000&cursor="+page.Cursor, nil))
			}
			path = stores + "?limit=100&cursor=" + page.Cursor
		}
		body := p.ok("GET", path, nil).body
		bare := bareServer(b, body)
		b.Run(name, func(b *testing.B) {
			b.Run("bare", func(b *testing.B) { load(b, bare.Client(), bare.URL+"/", "", len(body)) })
			b.Run("api", func(b *testing.B) { load(b, p.srv.Client(), p.srv.URL+path, p.token, len(body)) })
		})
	}
}

func bareServer(b *testing.B, body []byte) *httptest.Server {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	b.Cleanup(srv.Close)
	return srv
}

func load(b *testing.B, like *http.Client, url, token string, size int) {
	// HTTP/1.1 with connections that are kept, as most load generators do; a connection for each worker.
	config := like.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos = []string{"http/1.1"}
	config.MinVersion = tls.VersionTLS13
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.SetParallelism(4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			n, _ := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if int(n) != size {
				b.Errorf("%d bytes", n)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// fill stores n more datastores like the one there is.
func (p *plane) fill(n int) {
	shape := *p.store.Datastores.List()[0]
	for i := 0; i < n; i += 50 {
		p.update(func(tx *store.Tx) error {
			for j := i; j < i+50; j++ {
				ds := shape
				ds.ID, ds.Name = orrery.NewID(orrery.PrefixDatastore), fmt.Sprintf("d%05d", j)
				if err := p.store.Datastores.Insert(tx, &ds); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// BenchmarkHandler measures the API alone, without network and TLS.
func BenchmarkHandler(b *testing.B) {
	p := newPlane(b)
	p.addHost()
	p.create("demo")
	p.fill(10_000)
	for name, path := range map[string]string{"get": demo, "list-100-of-10000": stores + "?limit=100"} {
		b.Run(name, func(b *testing.B) {
			req := httptest.NewRequest(http.MethodGet, path, nil)
			req.Header.Set("Authorization", "Bearer "+p.token)
			w := &discard{h: http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				p.api.ServeHTTP(w, req)
			}
		})
	}
}

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkNew(b *testing.B) {
	p := newPlane(b)
	for b.Loop() {
		if _, err := api.New(api.Config{Backend: p.control, Log: slog.New(slog.DiscardHandler)}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatches opens watches, each on a TLS connection of its own, and reports the memory that each takes (the
// client's end of its connection included, which lives in this process too) and how long one change takes to reach them
// all. b.N watches are open at once: -benchtime 10000x.
func BenchmarkWatches(b *testing.B) {
	p := newPlane(b, func(c *api.Config) { c.MaxWatchesPerPrincipal = 20_000 })
	p.addHost()
	id := p.create("demo").Datastore.ID
	config := p.srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos, config.ServerName = nil, "example.com"
	request := []byte("GET " + demo + "?watch HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer " + p.token + "\r\n\r\n")
	before := memory()
	conns := make([]*tls.Conn, b.N)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := tls.Dial("tcp", p.srv.Listener.Addr().String(), config)
		if err != nil {
			b.Fatal(err)
		}
		conns[i] = c
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		readUntil(b, c, "event: synced")
	}
	b.ReportMetric(float64(memory()-before)/float64(b.N), "B/watch")
	began := time.Now()
	p.update(func(tx *store.Tx) error {
		ds, err := p.store.Datastores.TxGet(tx, id)
		if err != nil {
			return err
		}
		ds.Status.Message = "a change"
		return p.store.Datastores.Put(tx, ds)
	})
	for _, c := range conns {
		readUntil(b, c, "a change")
	}
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms-to-all")
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

func readUntil(b *testing.B, c net.Conn, text string) {
	b.Helper()
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	var seen []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(seen, []byte(text)) {
		n, err := c.Read(buf)
		if err != nil {
			b.Fatalf("%v after %s", err, seen)
		}
		seen = append(seen, buf[:n]...)
	}
}
