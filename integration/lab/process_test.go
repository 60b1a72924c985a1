package lab

import (
	"os"
	"os/exec"
	"testing"
)

// TestProcess: a process is alive from the moment that it is started, also for who
// reads its record, and is not once it has ended, waited for or not.
func TestProcess(t *testing.T) {
	const runs = 100 // exec lets go of the parent at any time before it is through
	dir := t.TempDir()
	for range runs {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := find(cmd.Process.Pid)
		alive := err == nil && p.alive()
		if err := p.write(dir); err != nil {
			t.Fatal(err)
		}
		read, readErr := readProcess(dir)
		if err := p.kill(); err != nil {
			t.Fatal(err)
		}
		if !alive {
			t.Fatalf("%+v is not alive after its start: %v", p, err)
		}
		if readErr != nil || read != p {
			t.Fatalf("recorded %+v, read %+v, %v", p, read, readErr)
		}
		if p.alive() {
			t.Fatalf("%+v is alive after its end", p)
		}
		_ = cmd.Wait() // it was killed
		if p.alive() {
			t.Fatalf("%+v is alive when it was waited for", p)
		}
	}
	other := process{pid: os.Getpid(), start: "1"}
	if other.alive() {
		t.Fatal("a process is taken for another that had its number before")
	}
}
