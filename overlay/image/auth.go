package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/ctrfs/ctrfs/engine"
)

// Auth is a login at a registry. The zero one means that docker's file of logins is asked.
type Auth struct {
	User, Password string
	Token          string // instead of both

	identity string // what docker keeps of a login at some registries, to get tokens with; instead of a password
}

// ParseAuth reads the file "auth": `USER PASSWORD`, or a token alone; nothing is no login. A password may have spaces.
func ParseAuth(text string) (Auth, error) {
	text = strings.TrimSuffix(text, "\n")
	if strings.ContainsAny(text, "\n\r\x00") {
		return Auth{}, engine.Invalid("auth", "", "it has more than one line", "write USER PASSWORD, or a token")
	}
	user, password, two := strings.Cut(strings.TrimSpace(text), " ")
	if !two {
		return Auth{Token: user}, nil
	}
	if password = strings.TrimLeft(password, " "); strings.Contains(user, ":") || password == "" {
		return Auth{}, engine.Invalid("auth", "", "it is not a user's name and a password", "write USER PASSWORD, or a token")
	}
	return Auth{User: user, Password: password}, nil
}

// ParseMirrors reads a table of mirrors, a line `REGISTRY MIRROR…` each: an image of that registry is asked for at each mirror, in
// that order, and then at the registry. A mirror is a host, with a port and a path before the image's if need be.
func ParseMirrors(text string) (map[string][]string, error) {
	mirrors := map[string][]string{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) == 1 {
			return nil, engine.Invalid("mirrors", words[0], "no mirror is named", "write REGISTRY MIRROR")
		}
		registry, err := name.NewRegistry(words[0])
		if err != nil {
			return nil, engine.Invalid("mirrors", words[0], "not a registry", "write HOST or HOST:PORT")
		}
		for _, m := range words[1:] {
			// Without a dot, a port or "localhost" the first part would be taken for a part of docker.io.
			if r, err := name.NewRepository(m + "/x"); err != nil || !strings.HasPrefix(m+"/x", r.RegistryStr()+"/") {
				return nil, engine.Invalid("mirrors", m, "not a registry", "write HOST, HOST:PORT or HOST/PATH")
			}
		}
		mirrors[registry.RegistryStr()] = append(mirrors[registry.RegistryStr()], words[1:]...)
	}
	return mirrors, nil
}

// login returns what a registry shall be told; authn.Anonymous is nothing.
func (s *Store) login(repo name.Repository, auth Auth) (authn.Authenticator, error) {
	if auth == (Auth{}) {
		var err error
		if auth, err = dockerLogin(s.o.DockerConfig, repo); err != nil {
			return nil, err
		}
	}
	switch {
	case auth == Auth{}:
		return authn.Anonymous, nil
	case auth.Token != "":
		return authn.FromConfig(authn.AuthConfig{RegistryToken: auth.Token}), nil
	case auth.identity != "":
		return authn.FromConfig(authn.AuthConfig{Username: auth.User, IdentityToken: auth.identity}), nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: auth.User, Password: auth.Password}), nil
}

const dockerConfigMax = 1 << 20

// dockerLogin looks a registry up in the file where docker, podman and skopeo keep logins. The helpers that the file may name
// are programs, and a server executes nothing.
func dockerLogin(file string, repo name.Repository) (Auth, error) {
	if file == "" {
		return Auth{}, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return Auth{}, nil
	}
	var text []byte
	if err == nil {
		defer f.Close()
		text, err = io.ReadAll(io.LimitReader(f, dockerConfigMax))
	}
	var auth Auth
	if err == nil {
		auth, err = parseDockerConfig(text, repo)
	}
	if err != nil {
		return Auth{}, &engine.Error{Op: "read", File: file, Errno: engine.Errno(err), Err: err, Cure: "mend the file, or write USER PASSWORD into auth"}
	}
	return auth, nil
}

// parseDockerConfig finds the login for a repository: the one with the longest part of its name, as podman keeps them, or the
// registry's.
func parseDockerConfig(text []byte, repo name.Repository) (Auth, error) {
	var config struct {
		Auths map[string]struct {
			Auth, Username, Password, IdentityToken, RegistryToken string
		}
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return Auth{}, bad(err, "it is not what docker writes")
	}
	best, found := "", Auth{}
	for key, a := range config.Auths {
		place := loginPlace(key)
		full := repo.RegistryStr() + "/" + repo.RepositoryStr()
		if place != full && !strings.HasPrefix(full, place+"/") || best != "" && len(place) <= len(best) {
			continue
		}
		user, password := a.Username, a.Password
		if a.Auth != "" {
			plain, err := base64.StdEncoding.DecodeString(strings.TrimRight(a.Auth, "\x00"))
			if err != nil {
				return Auth{}, bad(err, fmt.Sprintf("the login for %.100q cannot be read", key))
			}
			user, password, _ = strings.Cut(string(plain), ":")
		}
		login := Auth{User: user, Password: password, identity: a.IdentityToken}
		if a.RegistryToken != "" {
			login = Auth{Token: a.RegistryToken}
		}
		if login != (Auth{}) {
			best, found = place, login
		}
	}
	return found, nil
}

// loginPlace makes one of the ways in which a registry is named there: "https://index.docker.io/v1/" is the oldest.
func loginPlace(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimRight(key, "/")
	for _, end := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, end)
	}
	host, path, _ := strings.Cut(key, "/")
	if host == "docker.io" || host == "registry-1.docker.io" {
		host = name.DefaultRegistry
	}
	if path != "" {
		return host + "/" + path
	}
	return host
}
