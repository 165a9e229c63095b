package endurance

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"probed/internal/nettest"
)

// child is in the environment of this program when a test has started it as a process of its own, with the name of one of the
// children and what it is to do: what takes much time would otherwise take that of the test, which measures.
const child = "ENDURANCE_CHILD"

var children = map[string]func(how string) error{"attack": attackMain, "flood": floodMain}

// asChild returns a command that is a child of this program.
func asChild(name, how string) *exec.Cmd {
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), child+"="+name+" "+how)
	return command
}

func TestMain(m *testing.M) {
	if name, how, ok := strings.Cut(os.Getenv(child), " "); ok {
		if err := children[name](how); err != nil {
			fmt.Fprintln(os.Stderr, name, err)
			os.Exit(2)
		}
		return
	}
	os.Exit(nettest.CheckLeaks(nettest.InNamespace(m)).Run())
}
