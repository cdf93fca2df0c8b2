package integration

import (
	"strings"
	"testing"

	"tpcfs/integration/harness"
)

// mountNames are scripts about links, nodes, attributes and files without a name.
// Each prints the same in a mount and in a local directory.
var mountNames = []struct{ name, script string }{
	{"ln", `echo a > f; ln f g; echo b >> g; cat f; stat -c '%h' f g; rm f; stat -c %h g; mkdir d; ln d e; echo $?; ln none x; echo $?; ln g d/g; mv g d/g; ls -A . d; ln -s none l; ln -P l l2; readlink l2; stat -c %h l`},
	{"ln, both names edited", `exec 3>f; echo one >&3; ln f g; cat g; echo two >> g; echo three >&3; exec 3>&-; wc -l < f; sed -i s/t/T/ f; cat f g; stat -c %h f g`},
	{"cp -al", `mkdir -p s/d; echo a > s/f; echo b > s/d/g; ln -s f s/l; cp -al s t; stat -c %h s/f t/f s/d/g t/d/g; echo more >> t/f; cat s/f; rm -r s; cat t/f t/d/g; stat -c %h t/f`},
	{"tar", `mkdir s; echo a > s/f; ln s/f s/g; mkfifo s/p; tar cf t.tar s; mkdir x; tar xpf t.tar -C x; [ x/s/f -ef x/s/g ] && echo same; [ -p x/s/p ] && echo fifo; stat -c %h x/s/f`},
	{"git clone --local", `export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; git init -q -b main r; cd r; for i in 1 2 3; do seq $i 99 > f$i; done; git add .; git commit -qm one; cd ..; git clone -q --local r s; git -C s fsck; find r/.git/objects -type f -links 2 | wc -l; cat s/f3 | cksum; git -C s gc -q; git -C s fsck`},
	{"nodes", `mkfifo p; stat -c '%F %a %s' p; { echo through > p & }; cat p; wait; mkfifo p; echo $?; mknod c c 1 3; mknod b b 259 70000; stat -c '%F %t %T %a' c b; chmod 600 c; cp -a c c2; stat -c '%F %t %T %a' c2; python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind("s")'; stat -c '%F' s; mv s s2; [ -S s2 ] && echo still; rm c c2 b s2; ls`},
	{"renameat2", `echo 1 > a; echo 2 > b; mv -n a b; cat a b; mkdir d; echo x > d/x; python3 -c '
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def rename(a, b, flags):
    r = libc.renameat2(-100, a.encode(), -100, b.encode(), flags)
    print(a, b, flags, r and errno.errorcode[ctypes.get_errno()])
rename("a", "b", 1); rename("a", "c", 1); rename("b", "c", 2); rename("c", "d", 2); rename("d", "c", 1); rename("d", "none", 2); rename("none", "d", 2)
rename("b", "n", 1); rename("n", "c/y", 2); rename("c", "c/x", 2); rename("c", "n", 3); rename("c", "n", 8); rename("c", "c", 2); rename("n", "n", 1)
'; find . | sort; cat n d c/x; stat -c %h . c`},
	{"attributes", `echo a > f; ln -s f l; mkfifo p; mkdir d; python3 -c '
import ctypes, errno, os
def t(f, *a, **k):
    try: print(f.__name__, a[1:], f(*a, **k))
    except OSError as e: print(f.__name__, a[1:], errno.errorcode[e.errno])
for f in "f", "d":
    t(os.setxattr, f, "user.a", b"1"); t(os.setxattr, f, "user.a", b"2", os.XATTR_CREATE); t(os.getxattr, f, "user.a")
    t(os.setxattr, f, "user.b", b"x", os.XATTR_REPLACE); t(os.setxattr, f, "user.b", b"", os.XATTR_CREATE); t(os.getxattr, f, "user.b")
    t(os.setxattr, f, "user.a", b"33", os.XATTR_REPLACE); t(os.getxattr, f, "user.a"); os.setxattr(f, "user.bin", bytes(range(256)))
    print(os.getxattr(f, "user.bin") == bytes(range(256))); print(sorted(os.listxattr(f))); t(os.removexattr, f, "user.b"); t(os.removexattr, f, "user.b"); t(os.getxattr, f, "user.b")
t(os.setxattr, "f", "trusted.t", b"t"); t(os.getxattr, "f", "trusted.t"); t(os.setxattr, "f", "none.x", b""); t(os.getxattr, "f", "none.x")
t(os.setxattr, "p", "user.a", b"1"); t(os.setxattr, "l", "user.a", b"1", follow_symlinks=False); t(os.setxattr, "l", "trusted.a", b"1", follow_symlinks=False); print(sorted(os.listxattr("l", follow_symlinks=False)), sorted(os.listxattr("l")))
t(os.setxattr, "none", "user.x", b""); t(os.setxattr, "f", "security.x", b"s"); print(sorted(os.listxattr("f")))
fd = os.open("f", os.O_RDWR); t(os.setxattr, fd, "user.fd", b"1"); os.unlink("f"); t(os.getxattr, fd, "user.fd"); t(os.removexattr, fd, "user.fd"); print(sorted(os.listxattr(fd)))
libc = ctypes.CDLL(None, use_errno=True)
b = ctypes.create_string_buffer(1)
print(libc.getxattr(b"d", b"user.a", b, 1), errno.errorcode[ctypes.get_errno()], libc.getxattr(b"d", b"user.a", None, 0))
print(libc.listxattr(b"d", b, 1), errno.errorcode[ctypes.get_errno()], libc.listxattr(b"d", None, 0))
'; cp -a d e; python3 -c 'import os; print(sorted(os.listxattr("e")), os.getxattr("e", "user.a"))'`},
	{"O_TMPFILE", `python3 -c '
import errno, os
fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o640)
print(os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode), os.write(fd, b"data"), os.pread(fd, 10, 0), os.listdir("."))
os.ftruncate(fd, 3); os.fchmod(fd, 0o600); os.fsync(fd); print(os.pread(fd, 10, 0), os.fstat(fd).st_size)
os.write(fd, b"x" * 200000)
os.link("/proc/self/fd/%d" % fd, "f", follow_symlinks=True)
print(os.fstat(fd).st_nlink, os.write(fd, b"more"), os.listdir("."))
try: os.link("/proc/self/fd/%d" % fd, "f", follow_symlinks=True)
except OSError as e: print(errno.errorcode[e.errno])
os.close(fd)
fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_EXCL, 0o600)
try: os.link("/proc/self/fd/%d" % fd, "g", follow_symlinks=True)
except OSError as e: print(errno.errorcode[e.errno])
os.close(fd)
fd = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(fd, b"x" * 3000000); print(len(os.pread(fd, 4000000, 0)))
try: os.open("f", os.O_TMPFILE | os.O_RDWR)
except OSError as e: print(errno.errorcode[e.errno])
'; stat -c '%a %h %s' f; cksum f; ls`},
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
os.link("f", "g"); y = os.open("g", os.O_RDWR); os.unlink("f"); show(y, "y"); os.rename("g", "h"); os.unlink("h"); os.write(y, b"W"); show(y, "y"); os.fsync(y); show(y, "y")
'; ls`},
}

// What the mount does with names is what a local directory does.
func TestMountNames(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := tempDir(t)
	mnt := mountDir(t, dir)
	up(t, ctx, dir+"/data", mnt)
	local := t.TempDir()
	output := func(dir string, i int, script string) string {
		sub := "t" + string(rune('a'+i))
		r := harness.Run(ctx, nil, nil, "bash", "-c", "umask 022; cd \"$0\" && mkdir "+sub+" && cd "+sub+" || exit 9\n(\n"+script+"\n) 2>&1", dir)
		return strings.ReplaceAll(r.Out+r.Err, dir, "DIR")
	}
	for i, c := range mountNames {
		got, want := output(mnt, i, c.script), output(local, i, c.script)
		if got != want {
			t.Errorf("%s: %s\n--- in the mount:\n%s\n--- in a local directory:\n%s", c.name, c.script, got, want)
		}
	}
}
