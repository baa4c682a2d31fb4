package storage

// Capabilities is the document about pool types: what there is, in libvirt's form.
const Capabilities = `<storagepoolCapabilities>
  <pool type='dir' supported='yes'>
    <volOptions>
      <defaultFormat type='raw'/>
      <enum name='targetFormatType'>
        <value>raw</value>
        <value>qcow2</value>
      </enum>
    </volOptions>
  </pool>
  <pool type='fs' supported='no'/>
  <pool type='netfs' supported='no'/>
  <pool type='logical' supported='no'/>
  <pool type='disk' supported='no'/>
  <pool type='iscsi' supported='no'/>
  <pool type='iscsi-direct' supported='no'/>
  <pool type='scsi' supported='no'/>
  <pool type='mpath' supported='no'/>
  <pool type='rbd' supported='no'/>
  <pool type='gluster' supported='no'/>
  <pool type='zfs' supported='no'/>
  <pool type='vstorage' supported='no'/>
</storagepoolCapabilities>
`
