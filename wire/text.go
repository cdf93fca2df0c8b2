package wire

import "fmt"

// SizeText is a number of bytes for people: "512 B", "1.5 MiB".
func SizeText(bytes uint64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, units := float64(bytes)/unit, "KMGTPE"
	for value >= unit && len(units) > 1 {
		value /= unit
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
