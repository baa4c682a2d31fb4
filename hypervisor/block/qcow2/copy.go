package qcow2

// Own tells whether the image itself says what is at off, and for how many of the n bytes from there on that is so or not
// so. What it does not say shows its backing file, or zeroes.
func (q *Image) Own(off, n int64) (own bool, length int64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at, err := q.locate(off, n)
	return at.class != classNone, at.n, err
}
