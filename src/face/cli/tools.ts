/** The tools that vdisk stands in for, by the names scripts call them. */

export const tools: Readonly<Record<string, () => Promise<{ readonly main: (argv: string[]) => Promise<number> }>>> = {
  'qemu-img': () => import('./qemu-img/index.js'),
  'qemu-io': () => import('./qemu-io/index.js'),
  'qemu-nbd': () => import('./qemu-nbd/index.js'),
  'vixdisklib-sample': () => import('./vixdisklib-sample/index.js'),
  'vmware-mount': () => import('./vmware-mount/index.js'),
  'vmware-vdiskmanager': () => import('./vmware-vdiskmanager/index.js'),
};
