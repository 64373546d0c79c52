package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/orrery-db/orrery"
)

var catalogue = []orrery.Parameter{
	{Name: "work_mem", Type: orrery.ParameterInt, Unit: "kB", Min: "64", Max: "2147483647"},
	{Name: "maintenance_work_mem", Type: orrery.ParameterInt, Unit: "kB", Min: "1024", Max: "2147483647"},
	{Name: "shared_buffers", Type: orrery.ParameterInt, Unit: "8kB", Min: "16", Max: "1073741823", Restart: true},
	{Name: "checkpoint_timeout", Type: orrery.ParameterInt, Unit: "s", Min: "30", Max: "86400"},
	{Name: "max_connections", Type: orrery.ParameterInt, Min: "1", Max: "262143", Restart: true},
	{Name: "random_page_cost", Type: orrery.ParameterReal, Min: "0", Max: "1.79769e+308"},
	{Name: "jit", Type: orrery.ParameterBool},
	{Name: "synchronous_commit", Type: orrery.ParameterEnum, Values: []string{"local", "remote_write", "remote_apply", "on", "off"}},
	{Name: "search_path", Type: orrery.ParameterString},
	{Name: "port", Type: orrery.ParameterInt, Managed: "the address belongs to the instance"},
}

func TestCheckParameters(t *testing.T) {
	for _, c := range []struct {
		name, value, code, hint string
	}{
		{"work_mem", "64MB", "", ""},
		{"work_mem", "1.5 GB", "", ""},
		{"work_mem", "4096", "", ""},
		{"work_mem", "32kB", "parameter_out_of_range", "from 64 to 2147483647 in units of kB"},
		{"work_mem", "10.5", "parameter_invalid", ""},
		{"work_mem", "10 seconds", "parameter_invalid", "B, kB"},
		{"work_mem", "", "parameter_invalid", ""},
		{"work_mem", "NaN", "parameter_invalid", ""},
		{"work_mem", "1e400", "parameter_invalid", ""},
		{"work_mem", "9e99TB", "parameter_out_of_range", ""},
		{"work_mem", "-1", "parameter_out_of_range", ""},
		{"shared_buffers", "128kB", "", ""},
		{"shared_buffers", "120kB", "parameter_out_of_range", "8kB"},
		{"checkpoint_timeout", "5min", "", ""},
		{"checkpoint_timeout", "29s", "parameter_out_of_range", ""},
		{"checkpoint_timeout", "5MB", "parameter_invalid", "us, ms, s, min, h, d"},
		{"max_connections", "100", "", ""},
		{"max_connections", "100kB", "parameter_invalid", ""},
		{"max_connections", "1.5", "parameter_invalid", ""},
		{"random_page_cost", "1.1", "", ""},
		{"random_page_cost", "-0.1", "parameter_out_of_range", ""},
		{"jit", "OFF", "", ""},
		{"jit", "maybe", "parameter_invalid", ""},
		{"synchronous_commit", "Remote_Apply", "", ""},
		{"synchronous_commit", "never", "parameter_invalid", "local, remote_write"},
		{"search_path", "'$user', public", "", ""},
		{"search_path", "a\nb", "parameter_invalid", ""},
		{"search_path", "\xff", "parameter_invalid", ""},
		{"port", "1", "parameter_managed", ""},
		{"workmem", "1", "parameter_unknown", "work_mem"},
		{"max_conections", "1", "parameter_unknown", "max_connections?"},
		{"work_me", "1", "parameter_unknown", "work_mem, maintenance_work_mem?"},
		{"zzzzzzzzz", "1", "parameter_unknown", "/parameters"},
		{"", "1", "parameter_unknown", "/parameters"},
	} {
		_, err := CheckParameters(catalogue, map[string]string{c.name: c.value}, nil)
		if c.code == "" {
			if err != nil {
				t.Errorf("%s=%q: %v", c.name, c.value, err)
			}
			continue
		}
		e, ok := errors.AsType[*orrery.Error](err)
		if !ok || e.Code != c.code || e.Kind != orrery.KindInvalid || e.Field != "spec.parameters."+c.name || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s=%q: %#v, want code %s and hint %q", c.name, c.value, err, c.code, c.hint)
		}
	}
}

func TestCheckParametersTellsRestartAndAsksTheDriver(t *testing.T) {
	values := map[string]string{"shared_buffers": "1GB", "work_mem": "1MB", "max_connections": "10"}
	restart, err := CheckParameters(catalogue, values, nil)
	if err != nil || strings.Join(restart, " ") != "max_connections shared_buffers" {
		t.Fatalf("restart = %v, %v", restart, err)
	}
	refuse := func(p orrery.Parameter, _ string) error {
		if p.Name == "work_mem" {
			return orrery.Invalid("", "too little")
		}
		return nil
	}
	_, err = CheckParameters(catalogue, values, refuse)
	e, ok := errors.AsType[*orrery.Error](err)
	if !ok || e.Field != "spec.parameters.work_mem" || e.Code != "parameter_invalid" {
		t.Fatalf("driver's refusal: %#v", err)
	}
}
