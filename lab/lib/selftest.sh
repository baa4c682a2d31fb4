# Does the lab have what the tests count on?

selftest() {
  control_dir
  cp "$HERE/init/selftest" "$CTL/selftest"
  LAB_HUGE=80 LAB_TIMEOUT=240 LAB_LOCKED=$LAB "$HERE/lab.sh" run -w "$CTL" bash ./selftest
}
