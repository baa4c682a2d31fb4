"""Opens argv[1] with the name argv[2] and the password argv[3], and prints the host's name or the error's code and text."""
import sys
import libvirt

libvirt.registerErrorHandler(lambda ctx, err: None, None)


def answer(wanted, data):
    for want in wanted:
        if want[0] == libvirt.VIR_CRED_AUTHNAME:
            want[4] = data[0]
        elif want[0] == libvirt.VIR_CRED_PASSPHRASE:
            want[4] = data[1]
    return 0


try:
    kinds = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_PASSPHRASE]
    conn = libvirt.openAuth(sys.argv[1], [kinds, answer, sys.argv[2:4]], 0)
    print(conn.getHostname(), conn.isSecure())
    conn.close()
except libvirt.libvirtError as e:
    print(e.get_error_code(), e)
