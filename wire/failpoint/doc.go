// Package failpoint lets a test kill this process, or stop one goroutine of it
// for good, at a named step: build with the tag failpoint and set
//
//	TPCFS_FAILPOINT=name[:count][=kill|block][,...]
//
// kill (the default) is a SIGKILL to itself at the count-th time the step is
// reached; block stops every goroutine that reaches it from then on. Without
// the tag, At is empty.
package failpoint

// Variable is the environment variable that chooses the points.
const Variable = "TPCFS_FAILPOINT"
