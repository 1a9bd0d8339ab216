// SPDX-License-Identifier: Apache-2.0

package ctl

import (
	"go/ast"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// behaviours are what the system of 1999 did (L) and what its readers asked for (C), and which tests show
// that xdpha does it: "DIRECTORY TEST", or "DIRECTORY TEST/NAME" where a test goes through a list. What
// nothing shows says why.
var behaviours = []struct {
	number, what string
	shown        []string
	missing      string
}{
	{"L1", "two nodes, each home to half of the services; if one fails the other runs all, and vice versa",
		[]string{"pkg/node TestTheArticle/L1 two nodes, each home to half of the services, take over from each other", "pkg/node TestThePair/a power cut makes the peer own"}, ""},
	{"L2", "services are split by the resources that they use", []string{"ctl TestL2ServicesAreSplitByTheResourcesThatTheyUse"}, ""},
	{"L3", "services that suit it run on both nodes at once",
		[]string{"pkg/node TestTheArticle/L3 L4 what suits running twice runs on both nodes, the rest on its owner alone"}, ""},
	{"L4", "services that must run once do",
		[]string{"pkg/node TestTheArticle/L3 L4 what suits running twice runs on both nodes, the rest on its owner alone", "pkg/bench/article TestAStartThatFindsItsServiceRunningElsewhereIsWrong"}, ""},
	{"L5", "round-robin DNS spreads services over both nodes' addresses, which answer with one node dead too",
		[]string{"pkg/node TestTheArticle/L5 the addresses of both nodes answer with either of them dead"}, ""},
	{"L6", "hot standby is the alternative", []string{"pkg/node TestL6AHotStandbyIsOneNodeThatIsHomeToAll"}, ""},
	{"L7", "IP and MAC address are taken over onto an unused NIC; clients' ARP caches stay right",
		[]string{"pkg/node TestThePair/a power cut makes the peer own", "pkg/node TestThePair/a hang makes the peer own, and healed there is one owner"}, ""},
	{"L8", "LAN NICs are on different switches, one of which may lock up",
		[]string{"pkg/node TestL8TheLossOfASwitchIsSurvived/switch 1 dies, and the spare NIC of serv1 carries files", "pkg/node TestL8TheLossOfASwitchIsSurvived/switch 2 dies, and the spare NIC of serv2 carries mail"}, ""},
	{"L9", "a crossover cable carries the heartbeat, and is a second path",
		[]string{"pkg/node TestThePair/two lost LAN cables hand over and come to rest", "bpf TestALinkThatSpeaksKeepsThePeerAlive"}, ""},
	{"L10", "of two nodes that do not hear each other, the one that reaches fewer hosts goes to standby",
		[]string{"pkg/node TestTheArticle/L10 the node that reaches fewer hosts serves no more", "bpf TestWhoReachesTheMajorityTakes", "bpf TestWhoIsCutOffTakesNothing"}, ""},
	{"L11", "with the heartbeat's cable lost both carry on, and the administrator is told",
		[]string{"pkg/node TestThePair/the crossover's loss moves nobody and is told"}, ""},
	{"L12", "a node that comes up is held until it is let go by hand", []string{"pkg/node TestL12ANodeThatComesBackIsHeldUntilItIsLetGoByHand"}, ""},
	{"L13", "file sets are mirrored on a schedule, in one direction, which a failure stops",
		[]string{"pkg/node TestL13AScheduleMirrorsOneWayAndAFailureEndsIt", "pkg/mirror TestAStaleOwnerIsRefusedBeforeAByteIsWritten", "pkg/mirror TestARunEndsWhenAHigherGenerationAppears"}, ""},
	{"L14", "services are off on both nodes while what changed is mirrored back, then started at home",
		[]string{"pkg/node TestL14ServicesAreOffOnBothNodesWhileTheLastChangesAreMirroredBack"}, ""},
	{"L15", "every interface, switch and power supply is failed in turn",
		[]string{"pkg/lab TestEveryFaultHasAnEnd", "pkg/bench/outage TestEverySectionMeasures", "pkg/node TestABadDayOfTheNICs/each link switched off is told, and switched on it heals"}, ""},
	{"C1", "tied to no bonding and no special switch: redundant networks are combined here",
		[]string{"bpf TestALinkThatSpeaksKeepsThePeerAlive", "pkg/node TestABadDayOfTheNICs/a crossover NIC that is pulled out moves nobody"}, ""},
	{"C2", "no quorum server for two nodes", []string{"bpf TestWhoReachesTheMajorityTakes", "pkg/sim TestSeeds"}, ""},
	{"C3", "tied to no cluster stack; a restart in place before a move; the status of all",
		[]string{"pkg/service TestServiceIsRestartedThenReportedFailed", "ctl TestStatusOfAHealthyPair"}, ""},
}

func TestTheArticlesBehavioursAreShown(t *testing.T) {
	tests := map[string]bool{} // "DIRECTORY TEST"
	named := map[string]bool{} // "DIRECTORY NAME", of whatever text there is
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				tests[s.dir+" "+n.Name.Name] = true
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil {
					named[s.dir+" "+text] = true
				}
			}
			return true
		})
	}
	var numbers []string
	for _, b := range behaviours {
		numbers = append(numbers, b.number)
		if (len(b.shown) > 0) == (b.missing != "") {
			t.Errorf("%s: it is either shown by tests or says why not", b.number)
		}
		for _, shown := range b.shown {
			dir, test, _ := strings.Cut(shown, " ")
			test, name, isPart := strings.Cut(test, "/")
			if !tests[dir+" "+test] || isPart && !named[dir+" "+name] {
				t.Errorf("%s is shown by %s, which is not there", b.number, shown)
			}
		}
	}
	var want []string
	for i := range 15 {
		want = append(want, "L"+strconv.Itoa(i+1))
	}
	if want = append(want, "C1", "C2", "C3"); !slices.Equal(numbers, want) {
		t.Errorf("the behaviours are %v, not %v", numbers, want)
	}
}
