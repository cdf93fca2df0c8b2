//go:build race

package forget

// OneIn is 8 under the race detector.
const OneIn = 8
