// Package labtest is for tests that need a whole host: KVM that boots Linux, vhost, taps, an IOMMU, Debian's clients.
//
// Such a test is called TestLab…, starts with [Need], and runs with
//
//	lab/test.sh ./your/package [-run REGEXP] [-v]
//
// which builds the package's test binary and the project's programs, boots the lab once and runs the tests in it.
// Anywhere else, the test skips. In the lab nothing may skip: a missing feature fails, so that a test cannot hide
// behind it.
//
// The package knows where the guest kernels and initramfs are ([Kernel]), adds files to an initramfs
// ([AppendFiles]), and watches a guest's console ([Console]). It starts no guest itself and knows nothing of the
// engine. Start reading at [Need].
package labtest
