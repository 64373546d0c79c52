package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/orrery-db/orrery"
)

// Context says which plane to talk to, and as whom. It is kept in <config folder>/context.json, readable by its owner
// only; "orrery up" and "orrery login" write it.
type Context struct {
	Server  string `json:"server"`
	Token   string `json:"token"`
	CA      string `json:"ca_pem,omitempty"`
	Project string `json:"project,omitempty"`
}

// ContextFile is where the context lies in a config folder.
func ContextFile(configDir string) string { return filepath.Join(configDir, "context.json") }

// LoadContext reads the context. None is no error.
func LoadContext(configDir string) (Context, error) {
	var c Context
	return c, readJSON(ContextFile(configDir), &c)
}

// SaveContext writes the context, whole or not at all.
func SaveContext(configDir string, c Context) error { return writeJSON(ContextFile(configDir), c) }

// credentials are the passwords of one datastore's users that this person chose to keep.
type credentials struct {
	Datastore string            `json:"datastore"` // its name, for whoever looks at the file
	User      string            `json:"user"`      // the first that was saved; used where none is named
	Passwords map[string]string `json:"passwords"`
}

func credentialsFile(configDir, datastoreID string) string {
	return filepath.Join(configDir, "credentials", filepath.Base(datastoreID)+".json")
}

func loadCredentials(configDir, datastoreID string) (credentials, error) {
	var c credentials
	return c, readJSON(credentialsFile(configDir, datastoreID), &c)
}

func savePassword(configDir string, ds *orrery.Datastore, user, password string) error {
	c, err := loadCredentials(configDir, ds.ID)
	if err != nil {
		return err
	}
	c.Datastore = ds.Name
	if c.User == "" {
		c.User = user
	}
	if c.Passwords == nil {
		c.Passwords = map[string]string{}
	}
	c.Passwords[user] = password
	return writeJSON(credentialsFile(configDir, ds.ID), c)
}

// forgetPassword removes a user's password, all of them where user is empty.
func forgetPassword(configDir, datastoreID, user string) error {
	file := credentialsFile(configDir, datastoreID)
	c, err := loadCredentials(configDir, datastoreID)
	if err != nil {
		return err
	}
	delete(c.Passwords, user)
	if user == "" || len(c.Passwords) == 0 {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove saved passwords: %w", err)
		}
		return nil
	}
	if c.User == user {
		c.User = ""
	}
	return writeJSON(file, c)
}

// saveCA keeps a datastore's CA certificate in a file, for programs that want it so.
func saveCA(configDir, datastoreID, pem string) (string, error) {
	file := filepath.Join(configDir, "ca", filepath.Base(datastoreID)+".pem")
	if old, err := os.ReadFile(file); err == nil && string(old) == pem {
		return file, nil
	}
	return file, writeFile(file, []byte(pem))
}

func readJSON(file string, v any) error {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}

func writeJSON(file string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", file, err)
	}
	return writeFile(file, append(data, '\n'))
}

// writeFile writes a file for its owner only, by renaming, so that nobody reads half of it.
func writeFile(file string, data []byte) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of %s: %w", file, err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(file)+"-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
