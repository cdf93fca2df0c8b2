//go:build race

package forget

// OneIn is 24 under the race detector.
const OneIn = 24
