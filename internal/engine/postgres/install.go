package postgres

// Package is what Debian, Ubuntu and PGDG call a version's package.
func (*Driver) Package(version string) string {
	if version == "" {
		return "postgresql"
	}
	return "postgresql-" + version
}
