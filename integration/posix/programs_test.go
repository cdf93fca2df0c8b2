package posix

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"tpcfs/integration/harness"
)

// programs are what people run, as scripts that print what they saw. In the
// mount each prints what it prints in a local directory.
var programs = []struct{ name, script string }{
	{"git", `git init -q -b main r; cd r
mkdir d; for i in $(seq 20); do seq $i 300 > d/f$i; done; git add .; git commit -qm one; git status --short
for i in 3 5 7; do echo more >> d/f$i; done; git mv d/f9 moved; rm d/f11; git status --short; git commit -qam two
git checkout -q -b other HEAD~1; echo other > d/f1; git commit -qam three; git checkout -q main; git merge -q -m merged other
git stash list; echo x >> moved; git stash -q; git stash pop -q; git diff --stat; git checkout -q .
git gc -q; git fsck 2>&1; git log --format='%h %s'; cd ..
git clone -q r s; git -C s fsck; git -C s status --short; git clone -q --local --bare r b.git; git -C s push -q ../b.git main:pushed; git -C b.git log -1 --format=%h pushed
cat s/d/* s/moved | cksum; git -C s repack -adq; git -C s fsck`},
	{"sqlite", `sqlite3 db 'create table t(id integer primary key, v); insert into t select value, hex(value * 7919) from generate_series(1, 3000); create index i on t(v);'
for i in 1 2 3; do for k in 1 2 3 4; do sqlite3 -cmd '.timeout 60000' db "begin immediate; update t set v = v || 'x' where id % 5 = $i and id <= 3000; insert into t(v) values('$i/$k'); commit"; done & done; wait
sqlite3 db 'begin; delete from t; rollback; select count(*), sum(length(v)) from t; pragma integrity_check; vacuum; pragma integrity_check;'
sqlite3 wal 'pragma journal_mode = wal; create table t(a);' ; for i in $(seq 8); do sqlite3 -cmd '.timeout 60000' wal "insert into t values($i)"; done
sqlite3 wal 'select sum(a) from t; pragma wal_checkpoint(truncate); pragma integrity_check; pragma journal_mode = delete;'; ls`},
	{"tar", `mkdir -p s/d/e; seq 5000 > s/a; ln s/a s/d/b; ln -s ../a s/d/l; ln -s none s/dangling; mkfifo s/p; head -c 300000 /dev/zero > s/d/z; printf x > s/d/e/x; chmod 4711 s/d/z; chmod 1750 s/d; chown 12:34 s/d/e/x; touch -d 2001-02-03T04:05:06.789 s/a s/d/e; setfattr -n user.k -v value s/a; setfattr -n user.k s/d
truncate -s 3M s/sparse; printf end >> s/sparse; find s -exec touch -h -d @1000000000.5 {} +
tar --xattrs --sparse -cf t.tar s; mkdir x; tar --xattrs --numeric-owner -xpf t.tar -C x; tar --xattrs -df t.tar && echo same; (cd x; tar -df ../t.tar) && echo same
(cd x; find s -printf '%p %y %m %U %G %n %l %T@\n' | sort); getfattr -dR x/s; cmp s/sparse x/s/sparse && [ $(stat -c %b x/s/sparse) -lt 4000 ] && echo sparse; [ x/s/a -ef x/s/d/b ] && echo linked`},
	{"rsync", `mkdir -p s/d/e; seq 5000 > s/a; ln s/a s/d/b; ln -s ../a s/d/l; mkfifo s/p; chmod 640 s/a; chown 12:34 s/d/e; touch -d 2001-02-03T04:05:06.789 s/a s/d/e; setfattr -n user.k -v value s/a; setfattr -n user.dir s/d
for i in $(seq 50); do echo $i > s/d/e/f$i; done
rsync -aHX s/ t/; rsync -aHXnic --delete s/ t/; stat -c '%h %a %Y' t/a t/d/b; rsync -aHX --inplace s/ u/; echo changed >> s/d/e/f7; rm s/d/e/f8; rsync -aHX --delete --inplace s/ u/; rsync -aHXnic --delete s/ u/; rsync -aHX --delete s/ t/; rsync -aHXnic --delete s/ t/; rsync -aHX --append s/ u/
mkdir "$TMPDIR/out"; rsync -aHX s/ "$TMPDIR/out/"; rsync -aHXnic --delete s/ "$TMPDIR/out/"; rsync -aHX "$TMPDIR/out/" back/; rsync -aHXnic --delete s/ back/; getfattr -dR back; find back | sort | cksum`},
	{"make", `printf 'int f(void);\nint main(void) { return f(); }\n' > main.c; printf 'int f(void) { return 3; }\n' > f.c
printf 'app: main.o f.o\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -c -o $@ $<\n' > Makefile; make; ./app; echo $?; make; sed -i 's/3/4/' f.c; make; ./app; echo $?; make -j4 -B; make -q; echo $?; ar rc lib.a f.o main.o; ar t lib.a; rm f.o; make`},
	{"go", `mkdir -p m/greet; cd m; export GOFLAGS=-mod=mod GOTMPDIR=$PWD
printf 'module example.com/m\n\ngo 1.22\n' > go.mod; printf 'package greet\n\nfunc Hello() string { return "hello" }\n' > greet/g.go
printf 'package main\n\nimport "example.com/m/greet"\n\nfunc main() { println(greet.Hello()) }\n' > main.go
printf 'package greet\n\nimport "testing"\n\nfunc TestHello(t *testing.T) {\n\tif Hello() != "hello" {\n\t\tt.Fatal()\n\t}\n}\n' > greet/g_test.go
go build -o app . && ./app; sed -i 's/hello/good day/' greet/g.go; go build -o app . && ./app; go vet . && echo vetted; gofmt -l .; go list ./...; ls`},
	{"saves", `printf 'one\n' > f; vim -u NONE -es -c '%s/one/two/' -c wq f < /dev/null; cat f; vim -u NONE -es -c 'set backup backupcopy=yes' -c '%s/two/three/' -c wq f < /dev/null; vim -u NONE -es -c 'set backup backupcopy=no' -c '%s/three/four/' -c wq f < /dev/null; cat f f~; ls -A
chmod 640 f; ln -s f l; vim -u NONE -es -c 's/four/five/' -c wq l < /dev/null; cat f; stat -c '%a %F' f l
for i in $(seq 20); do echo $i > .f.new; sync .f.new; mv .f.new f; [ "$(cat f)" = $i ] || echo wrong; done
ed -s f <<< $'s/20/ed/\nw\nq'; sed -i.bak s/ed/sed/ f; cat f f.bak
python3 -c '
import os, tempfile
for i in range(10):
    fd, name = tempfile.mkstemp(dir="."); os.write(fd, b"%d" % i); os.fsync(fd); os.close(fd); os.replace(name, "p")
    d = os.open(".", os.O_RDONLY); os.fsync(d); os.close(d)
    assert open("p").read() == str(i)
'; cat p; ls -A`},
	{"patch", `seq 100 > f; cp f g; sed s/50/fifty/ f > f.new; diff -u f f.new > p; patch -s f p; cmp f f.new && echo patched; patch -sR f p; cmp f g && echo back; patch -sb f p; ls; echo junk > f; patch -s -f f p; echo $?; ls; printf -- '--- /dev/null\n+++ new/dir/x\n@@ -0,0 +1 @@\n+made\n' | patch -s -p0; cat new/dir/x`},
	{"files", `t=$(mktemp -p .); [ -f $t ] && stat -c '%a %s' $t; d=$(mktemp -d -p .); [ -d $d ] && stat -c %a $d; rm -r $t $d
seq 200000 | dd of=f bs=64k iflag=fullblock conv=fsync status=none; dd if=f of=g bs=4k oflag=direct status=none; cmp f g; dd if=/dev/zero of=g bs=1k seek=100 count=50 conv=notrunc,fdatasync status=none; cksum f g; dd if=f bs=1000 skip=77 count=3 status=none | cksum
truncate -s 20M s; printf data | dd of=s bs=1 seek=9000000 conv=notrunc status=none; for h in always auto never; do cp --sparse=$h s s.$h; cmp s s.$h; done; [ $(stat -c %b s.always) -lt 4000 ] && echo sparse; [ $(stat -c %b s.never) -gt 40000 ] && echo full; cp --reflink=auto f r; cmp f r; fallocate -d s.never; cmp s s.never
mkdir -p d/e; for i in $(seq 60); do echo "line $i" > d/e/f$i; done; cp -a d d2; diff -r d d2; find d -name 'f*5' -size -2 -newer f | sort; grep -r 'line 1' d | sort | cksum; grep -rlZ 'line 2' d | xargs -0 ls | cksum; find d2 -type f -exec sed -i s/line/LINE/ {} +; grep -rc LINE d2 | sort | cksum; du -ab d/e/f* | sort | cksum; du -sb d/e | cut -f1 > /dev/null; df . > /dev/null && df -i . > /dev/null && echo df; install -m 750 -d i/j; install -m 640 f i/j/; stat -c '%a %s' i/j i/j/f | sed 's/^750 .*/750/'; split -b 100000 f part.; cat part.* | cmp - f; shuf f | sort -n -o sorted; cmp f sorted; gzip -k f; gunzip -c f.gz | cmp - f; tac f | tac | cmp - f; rm -r d d2; ls`},
	{"logs", `for k in 1 2 3 4; do for i in $(seq 40); do echo "writer $k line $i" >> log; done & done; wait; wc -l < log; sort log | cksum; mv log log.1; echo new > log; gzip log.1; zcat log.1.gz | head -n 160 | sort | cksum; cat log; exec 3>> log; cp log log.2; : > log; echo after >&3; cat log log.2`},
}

// output is what a program prints in a directory of its own below dir, with
// its temporary files in tmp.
func output(ctx context.Context, name, script, dir, tmp string) string {
	r := harness.Run(ctx, []string{"NAME=" + name, "TMPDIR=" + tmp, "LC_ALL=C", "TZ=UTC", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=2020-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2020-01-01T00:00:00Z"}, nil,
		"bash", "-c", "umask 022; mkdir -p \"$0/$NAME\" && cd \"$0/$NAME\" || exit 9\n(\n"+script+"\n) 2>&1", dir)
	if r.Code == -1 {
		return "it did not end in time\n" + r.Out + r.Err
	}
	return strings.ReplaceAll(r.Out+r.Err, dir, "DIR")
}

// TestPrograms runs all the programs at once, while the coordinator and the
// participants are killed and started again, one after another and all
// together: they notice nothing but that it takes longer.
func TestPrograms(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	w := newWorld(t, ctx, plain, 1)
	running, done := context.WithCancel(ctx)
	var killer sync.WaitGroup
	killer.Go(func() { w.killAgainAndAgain(t, ctx, running) })
	var all sync.WaitGroup
	for _, p := range programs {
		local, tmp, tmp2 := t.TempDir(), t.TempDir(), t.TempDir()
		all.Go(func() {
			want := output(ctx, p.name, p.script, local, tmp)
			if got := output(ctx, p.name, p.script, w.mounts[0], tmp2); got != want {
				t.Errorf("%s: %s\n--- in the mount:\n%s\n--- in a local directory:\n%s", p.name, p.script, got, want)
			}
		})
	}
	all.Wait()
	done()
	killer.Wait()
}

// killAgainAndAgain kills servers with SIGKILL and starts them again, until
// running ends, and leaves all of them running.
func (w *world) killAgainAndAgain(t *testing.T, ctx, running context.Context) {
	victims := [][]string{{harness.Coordinator}, {w.Names[0]}, {w.Names[1], harness.Coordinator}, w.All(), {w.Names[2]}}
	pace := time.NewTicker(time.Second)
	defer pace.Stop()
	for i := 0; ; i++ {
		select {
		case <-running.Done():
			t.Logf("killed %d times", i)
			if i < 2 {
				t.Error("the programs were done before much was killed")
			}
			return
		case <-pace.C:
		}
		v := victims[i%len(victims)]
		if err := w.Kill(v...); err != nil {
			t.Error(err)
			return
		}
		if err := w.Start(ctx, v...); err != nil {
			t.Error(err)
			return
		}
		if i == 10 { // the rest may go on almost in peace: slow machines get there too
			pace.Reset(10 * time.Second)
		}
	}
}
