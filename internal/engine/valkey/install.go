package valkey

// Package is what Debian calls a version's package: Redis 7.0 in Debian 12, Valkey from 13 on.
func (*Driver) Package(version string) string {
	if version == "7" {
		return "redis-server"
	}
	return "valkey-server"
}
