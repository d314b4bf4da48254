package engine

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

var imageSays = ImageUse{Name: "web", ID: "sha256:1", Defaults: ImageDefaults{Cmd: []string{"/bin/web", "-v"}, Env: []string{"PATH=/web/bin", "MODE=web"},
	Cwd: "srv", User: "www:www", StopSignal: "SIGQUIT"}}

// program renders what an image has a say in.
func program(c *Config) string {
	return fmt.Sprintf("%s | %s | %s | %s | %s", c.Cmd(), strings.Join(c.Env(), " "), c.Cwd(), c.User(), c.StopSignal())
}

// take gives a configuration an image, as an engine does.
func take(t *testing.T, c *Config) {
	t.Helper()
	if err := c.SetImage("web"); err != nil {
		t.Fatal(err)
	}
	if err := c.UseImage(imageSays); err != nil {
		t.Fatal(err)
	}
}

// TestImageDefaults: what the image says holds where nobody has said anything, and goes with it.
func TestImageDefaults(t *testing.T) {
	const base, all = " | PATH=" + DefaultPath + " | / | 0:0 | TERM", "/bin/web -v | PATH=/web/bin MODE=web | /srv | www:www | QUIT"
	for _, x := range []struct {
		name       string
		set        func(*Config) error
		with, left string
	}{
		{"nothing", func(*Config) error { return nil }, all, base},
		{"cmd", func(c *Config) error { return c.SetCmd("sh") }, "sh" + all[len("/bin/web -v"):], "sh" + base},
		{"env", func(c *Config) error { return c.SetEnv(append(c.Env(), "A=1", "MODE=mine")) },
			"/bin/web -v | PATH=/web/bin MODE=mine A=1 | /srv | www:www | QUIT", " | PATH=" + DefaultPath + " MODE=mine A=1 | / | 0:0 | TERM"},
		{"cwd", func(c *Config) error { return c.SetCwd("/x") }, strings.Replace(all, "/srv", "/x", 1), strings.Replace(base, "| / |", "| /x |", 1)},
		{"user", func(c *Config) error { return c.SetUser("7:8") }, strings.Replace(all, "www:www", "7:8", 1), strings.Replace(base, "0:0", "7:8", 1)},
		{"signal", func(c *Config) error { return c.SetStopSignal("INT") }, strings.Replace(all, "QUIT", "INT", 1), strings.Replace(base, "TERM", "INT", 1)},
	} {
		for _, first := range []bool{true, false} {
			c := NewConfig()
			if !first {
				take(t, c)
			}
			if err := x.set(c); err != nil {
				t.Fatal(err)
			}
			if first {
				take(t, c)
			}
			if got := program(c); got != x.with {
				t.Errorf("%s (first %v) with the image:\n %s\nwant\n %s", x.name, first, got, x.with)
			}
			if err := c.SetRootfs(RootHost); err != nil {
				t.Fatal(err)
			}
			if got := program(c); got != x.left || c.Image() != "" {
				t.Errorf("%s (first %v) without it:\n %s\nwant\n %s", x.name, first, got, x.left)
			}
		}
	}
}

// TestImageFresh: a reset goes back to what the image says.
func TestImageFresh(t *testing.T) {
	c := NewConfig()
	take(t, c)
	if got, want := program(c.Fresh()), program(c); got != want || c.Fresh().Rootfs() != RootHost {
		t.Errorf("fresh is %s, root %q; want %s", got, c.Fresh().Rootfs(), want)
	}
}

// TestImageMalformed: what an image says keeps the rules of the settings.
func TestImageMalformed(t *testing.T) {
	for _, d := range []ImageDefaults{{User: "a:b:c"}, {StopSignal: "NONE"}, {Env: []string{"=x"}}} {
		if err := NewConfig().UseImage(ImageUse{Name: "web", Defaults: d}); err == nil || !strings.Contains(err.Error(), "images/web/config") {
			t.Errorf("%+v: %v", d, err)
		}
	}
}

// TestImageOCI: the name and the content survive config.json.
func TestImageOCI(t *testing.T) {
	c := NewConfig()
	take(t, c)
	text, err := c.OCI(Automatic{})
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseOCI(text)
	if err != nil {
		t.Fatal(err)
	}
	if use := back.Extension.Image; use == nil || use.Name != "web" || use.ID != "sha256:1" || program(back) != program(c) {
		t.Errorf("%+v %s", use, program(back))
	}
	if err := back.UseImage(imageSays); err != nil || !reflect.DeepEqual(back.Spec.Process, c.Spec.Process) {
		t.Errorf("%v %s", err, program(back))
	}
	if _, err := ParseOCI([]byte(strings.Replace(string(text), `"path": ""`, `"path": "/srv"`, 1))); err == nil {
		t.Error("a root and an image at once")
	}
}
