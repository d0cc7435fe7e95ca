# Installs Chromium with its own libraries and fonts.
# shellcheck shell=sh
# shellcheck source=apt.sh
. /run/apt.sh
apt_install chromium fonts-dejavu-core
home=/openhands/chromium
mkdir -p "/out$home/lib" "/out$home/fonts" /out/usr/bin
cp -R /usr/lib/chromium/. "/out$home"
cp /usr/share/fonts/truetype/dejavu/*.ttf "/out$home/fonts"
find "/out$home/locales" -type f ! -name 'en-US*' -delete
find "/out$home" \( -name 'libVkLayer_*' -o -name 'libVkICD_mock_*' -o -name '*.TOC' \) -delete
# NSS looks for these beside its own library.
for module in freebl3 freeblpriv3 nssckbi softokn3; do
    cp --dereference /usr/lib/*-linux-gnu/"lib$module.so" "/out$home/lib"
done
make_portable "$home" "/out$home/chromium" "/out$home/chrome_crashpad_handler"
install -m 644 /run/fonts.conf "/out$home"
install -m 755 /run/chromium /out/usr/bin
same_time /out
