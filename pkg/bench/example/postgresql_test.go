// SPDX-License-Identifier: Apache-2.0

package example

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/xdpha/xdpha/pkg/lab"
)

// newDatabase is a pair as it is when an administrator has done what the example's README says.
func newDatabase(t *testing.T) *cluster {
	t.Helper()
	d := Disk{Filled: []string{"/etc"}, Bare: []string{"/var/log", "/var/lib/postgresql"}}
	c := newCluster(t, "postgresql", d, "pg_createcluster", "pg_ctlcluster", "psql", "setpriv")
	password := make([]byte, 16)
	rand.Read(password)
	prepare, err := filepath.Abs(filepath.Join(examples, "postgresql", "prepare"))
	must(t, err)
	for _, n := range c.Nodes {
		etc, data := Path(n, "/etc/postgresql/15/main"), Path(n, "/var/lib/postgresql/15/main")
		ours, err := os.ReadFile(filepath.Join(etc, "conf.d/xdpha.conf"))
		must(t, err)
		must(t, errors.Join(os.RemoveAll(etc), os.RemoveAll(data))) // as this machine has it
		c.run(n.Name, "pg_createcluster", "--locale", "C.UTF-8", "15", "main")
		must(t, os.WriteFile(filepath.Join(etc, "conf.d/xdpha.conf"), ours, 0o644))
		must(t, os.WriteFile(Path(n, "/etc/xdpha/replicator"), []byte("*:*:*:replicator:"+hex.EncodeToString(password)+"\n"), 0o600))
	}
	c.run(lab.Serv1, prepare, "primary")
	c.start(lab.Serv1)
	c.awaitOwners(onServ1, lab.Serv1)
	c.run(lab.Serv2, prepare, "standby")
	c.start(lab.Serv2)
	c.awaitOwners(onServ1, lab.Serv1, lab.Serv2)
	return c
}

var (
	onServ1 = map[string]string{"database": lab.Serv1}
	onServ2 = map[string]string{"database": lab.Serv2}
)

// onNode asks a node's own server, as its administrator.
func (c *cluster) onNode(node, query string) string {
	c.t.Helper()
	return strings.TrimSpace(c.run(node, "setpriv", "--reuid", "postgres", "--regid", "postgres", "--init-groups", "psql", "-XAtq", "-h", "/run/postgresql", "-c", query, "postgres"))
}

// sql has the client ask the database, wherever it is.
func (c *cluster) sql(query string) (string, error) {
	out, err := c.ask([]string{"PGPASSWORD=open sesame", "PGCONNECT_TIMEOUT=2"}, "psql", "-XAtq", "-h", "192.0.2.21", "-U", "shop", "-c", query, "postgres")
	return strings.TrimSpace(out), err
}

func (c *cluster) orders(name string) {
	c.t.Helper()
	c.await("the client orders "+name, func() error {
		_, err := c.sql("INSERT INTO orders VALUES ('" + name + "')")
		return err
	})
}

func (c *cluster) hasOrders(want string) {
	c.t.Helper()
	c.await("the client finds "+want, func() error {
		got, err := c.sql("SELECT string_agg(name, ' ' ORDER BY name) FROM orders")
		if err == nil && got != want {
			err = fmt.Errorf("it has %q", got)
		}
		return err
	})
}

// awaitFollowed returns when whatever the primary has is on the standby too.
func (c *cluster) awaitFollowed(primary string) {
	c.t.Helper()
	c.await("the standby has all that "+primary+" has", func() error {
		if got := c.onNode(primary, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()"); got != "1" {
			return fmt.Errorf("%s standbys have it", got)
		}
		return nil
	})
}

func TestTheOtherPostgreSQLIsPromotedAndHasTheData(t *testing.T) {
	c := newDatabase(t)
	c.onNode(lab.Serv1, "CREATE ROLE shop LOGIN PASSWORD 'open sesame'; CREATE TABLE orders (name text); ALTER TABLE orders OWNER TO shop")
	c.orders("bread")
	c.awaitFollowed(lab.Serv1)
	c.breaks(lab.FaultCrossover, lab.Serv1)
	c.orders("butter") // which nobody else will have
	c.breaks(lab.FaultPower, lab.Serv1)
	c.awaitOwners(onServ2, lab.Serv2)
	c.hasOrders("bread")
	c.orders("milk")
	c.heals(lab.FaultCrossover, lab.Serv1)
	c.heals(lab.FaultPower, lab.Serv1) // it is rewound, without the butter, and follows
	c.awaitOwners(onServ2, lab.Serv1, lab.Serv2)
	c.awaitFollowed(lab.Serv2)
	c.moves("database", lab.Serv1)
	c.awaitOwners(onServ1, lab.Serv1, lab.Serv2)
	c.hasOrders("bread milk")
	c.orders("salt")
	c.awaitFollowed(lab.Serv1)
}
