package fusefs

import (
	"runtime"
	"strings"
	"testing"
)

// commands are what users run. Each is run in a mount and in a local
// directory, and must print and leave the same.
var commands = []struct{ name, script string }{
	{"cp and cat", `seq 1000 > a; cp a b; cat b; cmp a b; cp b a`},
	{"cp -a", `mkdir s; echo x > s/f; chmod 640 s/f; touch -d 2001-02-03T04:05:06.789 s/f; ln -s f s/l; cp -a s t; stat -c '%a %F %s %Y %y' t/f; readlink t/l`},
	{"ls -la", `mkdir d; echo a > d/f; touch d/.h; ls -laA --time-style=+ d | tail -n +2 | awk '{print $1,$3,$4,$NF}'`},
	{"rm", `echo a > f; rm f; ls; rm f; echo $?`},
	{"rm -r", `mkdir -p a/b/c; touch a/1 a/b/2 a/b/c/3; rm -r a; ls -A`},
	{"rmdir", `mkdir -p a/b; rmdir a; echo $?; rmdir a/b a; ls -A`},
	{"mkdir -p", `mkdir -p x/y/z; mkdir -p x/y/z; mkdir x; echo $?; find x | sort`},
	{"mv", `echo 1 > a; echo 2 > b; mv a c; mv -f b c; cat c; mkdir d; mv c d; mv d e; find . | sort`},
	{"mv over a directory", `mkdir a b; touch b/f; mv -T a b; echo $?; rm b/f; mv -T a b; echo $?; ls`},
	{"mv into itself", `mkdir a; mv a a/b; echo $?; ls -A a`},
	{"mv -n", `echo 1 > a; echo 2 > b; mv -n a b; cat a b`},
	{"touch", `touch f; touch -d 1999-12-31T23:59:59 f; stat -c %y f; touch -d 1960-01-02T03:04:05.5 f; stat -c %y f; touch -r f g; stat -c %y g`},
	{"append", `for i in 1 2 3; do echo $i >> f; done; cat f; { echo 4; echo 5; } >> f; cat f`},
	{"sed -i", `seq 5 > f; sed -i s/3/three/ f; cat f; ls -A`},
	{"tar", `mkdir s; seq 100 > s/a; mkdir s/d; echo b > s/d/b; chmod 600 s/a; ln -s a s/l; touch -d 2010-01-01 s/d/b s/a; tar cf t.tar s; mkdir x; tar xpf t.tar -C x; diff -r s x/s; stat -c '%a %Y' x/s/a x/s/d/b; rm t.tar`},
	{"git", `git init -q -b main r; cd r; echo hi > f; mkdir d; seq 99 > d/g; git add .; git commit -qm one; git status --short; echo more >> f; git status --short; git commit -qam two; git log --format=%s; git checkout -q HEAD~1; cat f; git checkout -q main; git gc -q; git fsck; cd ..; git clone -q r s; cat s/f; rm -rf r s`},
	{"an editor's save", `printf 'old\n' > f; ed -s f <<< $'s/old/new/\nw\nq'; cat f; cp f .f.tmp; echo more >> .f.tmp; sync .f.tmp; mv .f.tmp f; cat f; ls -A`},
	{"vim", `printf 'one\n' > f; vim -u NONE -es -c '%s/one/two/' -c wq f < /dev/null; cat f; ls -A`},
	{"truncate", `echo abcdef > f; truncate -s 3 f; cat f; truncate -s 10 f; od -c f; truncate -s 0 f; stat -c %s f; truncate -s +5 f; stat -c %s f; : > f; wc -c < f`},
	{"chmod", `echo a > f; chmod 600 f; stat -c %a f; chmod u+s,g+x f; stat -c %a f; chmod a=r f; stat -c '%a %A' f; mkdir d; chmod 1777 d; stat -c %a d`},
	{"chown", `echo a > f; chmod 6755 f; chown 1:2 f; stat -c '%u %g %a' f; chown -h 3:4 f; stat -c '%u %g' f`},
	{"umask", `umask 027; touch f; mkdir d; stat -c %a f d`},
	{"set-gid directory", `mkdir d; chgrp 7 d; chmod 2755 d; touch d/f; mkdir d/e; stat -c '%g %a' d/f d/e`},
	{"ln -s", `ln -s target l; readlink l; cat l; echo $?; echo hi > target; cat l; ln -sfn other l; readlink l; ln -s l l2; ln -s loop loop; cat loop; echo $?; echo over > l2; cat other`},
	{"find", `mkdir -p a/b; touch a/1 a/b/2 a/b/3; find . -type f | sort; find . -type d | sort; find . -name 3 -delete; find a | sort`},
	{"du", `dd if=/dev/zero of=f bs=64k count=4 status=none; du -b f | cut -f1`},
	{"dd conv=fsync", `seq 9999 | dd of=f bs=4k count=10 iflag=fullblock conv=fsync status=none; stat -c %s f; dd if=/dev/zero of=f bs=1k seek=3 count=2 conv=notrunc status=none; stat -c %s f; dd if=f bs=1k skip=3 count=2 status=none | od -c`},
	{"dd past the end", `dd if=/dev/zero of=f bs=1 seek=300000 count=1 status=none; stat -c %s f; cksum f`},
	{"sparse", `truncate -s 1M f; printf x | dd of=f bs=1 seek=500000 conv=notrunc status=none; cksum f; cp --sparse=always f g; cmp f g`},
	{"sqlite", `sqlite3 db 'create table t(a); insert into t values(1),(2); select sum(a) from t;'; sqlite3 db 'begin; insert into t values(3); rollback; select count(*) from t;'; for i in 1 2 3; do sqlite3 -cmd '.timeout 9999' db "insert into t values($i)" & done; wait; sqlite3 -cmd '.timeout 5000' db 'select count(*) from t; pragma integrity_check;'; ls`},
	{"names", `touch "a b" -- -x 'ü' $'new\nline' "$(printf 'n%.0s' {1..255})"; ls -A | od -c | tail -n 3; touch "$(printf 'n%.0s' {1..256})" 2>/dev/null; echo $?; stat "$(printf 'n%.0s' {1..256})" 2>/dev/null; echo $?; mkdir "$(printf 'n%.0s' {1..256})" 2>/dev/null; echo $?`},
	{"exclusive create", `set -C; echo 1 > f; echo 2 > f; cat f; ln -s nowhere l; echo 3 > l; echo $?; ls`},
	{"errors", `cat nope; echo $?; mkdir nope/x; echo $?; echo a > f; cat f/x; echo $?; ls f/; echo $?; rmdir f; echo $?; mkdir d; rm d; echo $?; cat d; echo $?; echo > d; echo $?`},
	{"unlink while open", `echo data > f; exec 3<f; rm f; cat <&3; exec 3<&-; exec 4<>g; echo more >&4; rm g; exec 5</dev/fd/4; echo $?; exec 4>&-; ls -A`},
	{"replace while open", `echo old > f; exec 3<f; echo new > g; mv g f; cat <&3; cat f; exec 3<&-`},
	{"rename while dirty", `exec 3>f; echo one >&3; mv f g; echo two >&3; exec 3>&-; cat g; ls -A`},
	{"in a removed directory", `mkdir d; cd d; rmdir ../d; touch x; echo $?; ls -A; pwd > /dev/null; stat -c %h .; echo $?`},
	{"dots", `mkdir -p a/b; ls -id . a a/b | awk '{print $1}' > /dev/null; [ "$(stat -c %i a/b/..)" = "$(stat -c %i a)" ] && [ "$(ls -ia a/b | awk '$2==".."{print $1}')" = "$(stat -c %i a)" ] && echo same`},
	{"flock", `exec 3>l; flock -n 3 && echo got; flock -n l true; echo $?; flock -u 3; flock -n l true; echo $?`},
	{"ln", `echo a > f; ln f g; echo b >> g; cat f; stat -c '%h' f g; [ f -ef g ] && echo same; rm f; stat -c %h g; cat g; ln g g; echo $?; mkdir d; ln d e; echo $?; ln none x; echo $?; ln g d/g; ln -f g d/g; stat -c %h d/g; mv g d/g; ls -A . d; ln -s none l; ln -P l l2; readlink l2; stat -c %h l; rm -r d; ls`},
	{"ln, both names edited", `exec 3>f; echo one >&3; ln f g; cat g; echo two >> g; echo three >&3; exec 3>&-; wc -l < f; sed -i s/t/T/ f; cat f g; stat -c %h f g`},
	{"cp -al", `mkdir -p s/d; echo a > s/f; echo b > s/d/g; ln -s f s/l; cp -al s t; stat -c %h s/f t/f s/d/g t/d/g; echo more >> t/f; cat s/f; rm -r s; cat t/f t/d/g; stat -c %h t/f`},
	{"tar with hard links", `mkdir s; echo a > s/f; ln s/f s/g; mkfifo s/p; tar cf t.tar s; mkdir x; tar xpf t.tar -C x; [ x/s/f -ef x/s/g ] && echo same; [ -p x/s/p ] && echo fifo; stat -c %h x/s/f; rm t.tar`},
	{"git clone --local", `git init -q -b main r; cd r; for i in 1 2 3; do seq $i 99 > f$i; done; git add .; git commit -qm one; cd ..; git clone -q --local r s; git -C s fsck; find r/.git/objects -type f -links 2 | wc -l; cat s/f3 | cksum; rm -rf r s`},
	{"mkfifo", `mkfifo p; stat -c '%F %a %s' p; { echo through > p & }; cat p; wait; mkfifo -m 600 q; stat -c %a q; mv q r; [ -p r ] && echo still; mkfifo p; echo $?; ln p p2; stat -c %h p; rm p; cp -a r t; [ -p t ] && echo copied; rm -f r t p2; ls`},
	{"mknod", `mknod c c 1 3; mknod b b 259 70000; stat -c '%F %t %T %a' c b; chmod 600 c; stat -c '%a %t %T' c; cp -a c c2; stat -c '%F %t %T' c2; rm c c2 b; ls`},
	{"sockets", `python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind("s")'; stat -c '%F' s; mv s s2; [ -S s2 ] && echo still; rm s2; ls`},
	{"mv without replacing, and exchanging", `echo 1 > a; echo 2 > b; mv -n a b; cat a b; mv -n a c; ls; mkdir d; echo x > d/x; python3 -c '
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    r = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    print(a, b, flags, r and errno.errorcode[ctypes.get_errno()])
rename("b", "c", 1); rename("b", "c", 2); rename("c", "d", 2); rename("d", "c", 1); rename("d", "none", 2); rename("none", "d", 2)
rename("b", "n", 1); rename("n", "c/y", 2); rename("c", "c/x", 2); rename("c", "n", 3); rename("c", "n", 8); rename("c", "c", 2); rename("n", "n", 1); rename("none", "n", 1)
'; find . | sort; cat n d c/x; stat -c %h . c`},
	{"attributes", `echo a > f; ln -s f l; mkfifo p; mkdir d; python3 -c '
import errno, os
def t(f, *a, **k):
    try: print(f.__name__, a[1:], f(*a, **k))
    except OSError as e: print(f.__name__, a[1:], errno.errorcode[e.errno])
for f in "f", "d":
    t(os.setxattr, f, "user.a", b"1"); t(os.setxattr, f, "user.a", b"2", os.XATTR_CREATE); t(os.getxattr, f, "user.a")
    t(os.setxattr, f, "user.b", b"x", os.XATTR_REPLACE); t(os.setxattr, f, "user.b", b"", os.XATTR_CREATE); t(os.getxattr, f, "user.b")
    t(os.setxattr, f, "user.a", b"33", os.XATTR_REPLACE); t(os.getxattr, f, "user.a"); os.setxattr(f, "user.bin", bytes(range(256)))
    print(os.getxattr(f, "user.bin") == bytes(range(256))); print(sorted(os.listxattr(f))); t(os.removexattr, f, "user.b"); t(os.removexattr, f, "user.b"); t(os.getxattr, f, "user.b")
t(os.setxattr, "f", "trusted.t", b"t"); t(os.getxattr, "f", "trusted.t"); t(os.setxattr, "f", "none.x", b""); t(os.getxattr, "f", "none.x"); t(os.setxattr, "f", "user." + 251 * "n", b"")
t(os.setxattr, "p", "user.a", b"1"); t(os.setxattr, "l", "user.a", b"1", follow_symlinks=False); t(os.setxattr, "l", "trusted.a", b"1", follow_symlinks=False); print(sorted(os.listxattr("l", follow_symlinks=False)), sorted(os.listxattr("l")))
t(os.setxattr, "f", "user.x", b"", 3); t(os.setxattr, "f", "user.a", b"", 3); t(os.setxattr, "none", "user.x", b"")
fd = os.open("f", os.O_RDWR); t(os.setxattr, fd, "user.fd", b"1"); os.unlink("f"); t(os.getxattr, fd, "user.fd"); t(os.removexattr, fd, "user.fd"); print(sorted(os.listxattr(fd)))
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
b = ctypes.create_string_buffer(1)
print(libc.getxattr(b"d", b"user.a", b, 1), errno.errorcode[ctypes.get_errno()], libc.getxattr(b"d", b"user.a", None, 0))
print(libc.listxattr(b"d", b, 1), errno.errorcode[ctypes.get_errno()], libc.listxattr(b"d", None, 0))
'; cp -a d e; python3 -c 'import os; print(sorted(os.listxattr("e")), os.getxattr("e", "user.a"))'`},
	{"a file that gets its name later", `python3 -c '
import errno, os
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
print(os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode), os.write(fd, b"data"), os.pread(fd, 10, 0), os.listdir("."))
os.ftruncate(fd, 3); os.fchmod(fd, 0o600); os.fsync(fd); print(os.pread(fd, 10, 0), os.fstat(fd).st_size)
os.link("/proc/self/fd/%d" % fd, "f", follow_symlinks=True)
print(os.fstat(fd).st_nlink, os.write(fd, b"more"), os.listdir("."))
try: os.link("/proc/self/fd/%d" % fd, "f", follow_symlinks=True)
except OSError as e: print(errno.errorcode[e.errno])
os.close(fd); print(open("f").read().replace(chr(0), "0"))
fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_EXCL, 0o600)
try: os.link("/proc/self/fd/%d" % fd, "g", follow_symlinks=True)
except OSError as e: print(errno.errorcode[e.errno])
os.close(fd)
fd = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(fd, b"x" * 3000000); print(len(os.pread(fd, 4000000, 0)))
try: os.open("f", os.O_TMPFILE | os.O_RDWR)
except OSError as e: print(errno.errorcode[e.errno])
try: os.open(".", os.O_TMPFILE | os.O_RDONLY)
except OSError as e: print(errno.errorcode[e.errno])
'; stat -c '%a %h' f; ls`},
	{"open files without a name", `python3 -c '
import os
def show(fd, what): s = os.fstat(fd); print(what, s.st_nlink, s.st_size, oct(s.st_mode), os.pread(fd, 100, 0))
open("f", "w").write("contents")
a = os.open("f", os.O_RDWR); b = os.open("f", os.O_RDONLY); os.pwrite(a, b"C", 0); os.unlink("f"); show(a, "a"); show(b, "b")
os.pwrite(a, b"!", 8); os.fsync(a); show(b, "b"); os.ftruncate(a, 4); os.fchmod(a, 0o600); os.utime(a, (1, 2)); print(os.fstat(a).st_mtime); show(b, "b")
open("f", "w").write("another"); show(a, "a"); c = os.open("/proc/self/fd/%d" % a, os.O_RDWR | os.O_APPEND); os.write(c, b"end"); os.close(a); show(b, "b"); show(c, "c")
try: os.link("/proc/self/fd/%d" % c, "g", follow_symlinks=True)
except OSError as e: print(e.strerror)
os.close(c); show(b, "b")
x = os.open("f", os.O_RDONLY); open("n", "w").write("new"); os.rename("n", "f"); show(x, "x"); print(open("f").read())
os.link("f", "g"); y = os.open("g", os.O_RDWR); os.unlink("f"); show(y, "y"); os.rename("g", "h"); os.unlink("h"); os.write(y, b"W"); show(y, "y")
'; ls`},
	{"a mapping", `seq 10000 > f; sort -R f | sort -n > g; cmp f g; tail -n 3 g`},
	{"heads and tails", `seq 100000 > f; head -c 70000 f | cksum; tail -c 70000 f | cksum; dd if=f bs=1000 skip=100 count=3 status=none | cksum`},
	{"many files", `for i in $(seq 300); do echo $i > f$i; done; ls | wc -l; cat f* | sort -n | cksum; rm f*; ls -A`},
}

func TestCommands(t *testing.T) { runCommands(t, "") }

// TestCommandsOneProc: with one P a handler that held it up would stop all.
func TestCommandsOneProc(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	runCommands(t, "tar sqlite append vim")
}

func runCommands(t *testing.T, only string) {
	service := newFake()
	service.list = 7 // pages of a listing
	dir, _ := mountAt(t, service, Options{})
	local := t.TempDir()
	for i, c := range commands {
		if only != "" && !strings.Contains(" "+only+" ", " "+c.name+" ") {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			sub := "/t" + string(rune('a'+i/26)) + string(rune('a'+i%26))
			script := "umask 022; mkdir $D" + sub + " && cd $D" + sub + " || exit 9\n(\n" + c.script + "\n) 2>&1"
			tail := "\necho '--- left'; find . -not -path '*/.git/*' -type f -print0 | LC_ALL=C sort -z | while IFS= read -r -d '' f; do stat -c '%n %s %a %u %g' -- \"$f\"; [ \"$f\" = ./db ] || cksum < \"$f\"; done"
			want := strings.ReplaceAll(sh(t, local, script+tail), local, "$D")
			got := strings.ReplaceAll(sh(t, dir, script+tail), dir, "$D")
			if got != want {
				t.Errorf("%s\n--- in the mount:\n%s\n--- in a local directory:\n%s", c.script, got, want)
			}
		})
	}
}
