#!/bin/sh
# Certificates for mutual TLS between engines and the control service: a CA of your own, one certificate for each side.
#
# Usage: scripts/certs.sh DIRECTORY [NAME...]
#
# NAMEs are the host names and IP addresses by which engines reach the service. The CA is kept if it is there
# already; the two certificates are made anew, so this is also how they are renewed.
set -eu

DIRECTORY=${1:?usage: scripts/certs.sh DIRECTORY [NAME...]}
shift
CA_DAYS=3650
DAYS=397

# Readable for the owner and the group: a container gets the group and no other right to the keys.
umask 027
mkdir -p "$DIRECTORY"
cd "$DIRECTORY"

# OpenSSL makes keys readable for their owner alone.
new_key() {
    openssl ecparam -name prime256v1 -genkey -noout -out "$1"
}

# sign NAME EXTENDED_KEY_USAGE SUBJECT_ALTERNATIVE_NAMES
sign() {
    new_key "$1.key"
    chmod 640 "$1.key"
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' \
        "$2" "$3" >"$1.extensions"
    openssl req -new -key "$1.key" -subj "/O=TurboSpec/CN=$1" -out "$1.request"
    openssl x509 -req -in "$1.request" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$DAYS" -sha256 \
        -extfile "$1.extensions" -out "$1.crt" 2>/dev/null
    rm "$1.request" "$1.extensions"
}

if [ ! -e ca.key ]; then
    new_key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days "$CA_DAYS" -subj "/O=TurboSpec/CN=TurboSpec CA" \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign,cRLSign' -out ca.crt
fi

names=DNS:control,DNS:localhost,IP:127.0.0.1
for name in "$@"; do
    case $name in
        *:* | *[0-9].[0-9]*.[0-9]*.[0-9]*) names=$names,IP:$name ;;
        *) names=$names,DNS:$name ;;
    esac
done
sign control serverAuth "$names"
sign engine clientAuth DNS:engine

echo "made $PWD: the service's certificate is for $names, $DAYS days"
echo "set in .env: CERTS_GID=$(stat -c %g control.key)"
