// Package nodedevtest makes sysfs trees for tests from text files, so that tests of several packages see the same host.
//
// It is imported by tests only, and knows nothing of what the trees mean. Start reading at Build.
package nodedevtest
