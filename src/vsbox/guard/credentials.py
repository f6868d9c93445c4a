"""What opens something else, told by its name: places in a home and of the machine, names wherever they are.

A name in the lists is what makes a credential, never the content.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable
from typing import Final

PLACES: Final = (
    # below a home
    "~/.ssh", "~/.gnupg", "~/.aws", "~/.azure", "~/.kube", "~/.docker", "~/.dockercfg", "~/.config/gcloud",
    "~/.config/gh", "~/.config/glab-cli", "~/.config/hub", "~/.config/op", "~/.config/rclone",
    "~/.config/doctl", "~/.config/heroku", "~/.config/hcloud", "~/.config/ngrok*", "~/.config/scw", "~/.config/linode*",
    "~/.config/vultr*", "~/.config/netlify", "~/.config/vercel", "~/.config/flyctl", "~/.config/stripe",
    "~/.config/github-copilot", "~/.config/tea", "~/.config/configstore", "~/.config/wrangler", "~/.config/.wrangler",
    "~/.config/git/credentials", "~/.config/containers/auth.json", "~/.config/pip", "~/.config/uv",
    "~/.config/pypoetry", "~/.config/openstack", "~/.config/kube*", "~/.config/helm", "~/.config/huggingface",
    "~/.config/age", "~/.config/sops", "~/.config/1Password", "~/.config/Bitwarden*", "~/.config/KeePass*",
    "~/.config/keepassxc", "~/.config/wireguard", "~/.config/openvpn*", "~/.config/filezilla", "~/.config/remmina",
    "~/.config/msmtp", "~/.config/mutt", "~/.config/neomutt", "~/.config/isync*", "~/.config/rbw",
    "~/.config/snowflake",
    "~/.config/Code*", "~/.config/VSCodium", "~/.config/Cursor", "~/.config/JetBrains", "~/.config/Insomnia",
    "~/.config/Postman", "~/.config/DBeaver*", "~/.config/syncthing", "~/.config/Nextcloud", "~/.config/weechat",
    "~/.config/irssi", "~/.netrc", "~/.pypirc", "~/.npmrc", "~/.yarnrc*", "~/.git-credentials", "~/.pgpass",
    "~/.my.cnf", "~/.mylogin.cnf", "~/.s3cfg", "~/.boto", "~/.fly", "~/.ngrok*",
    "~/.databrickscfg", "~/.snowflake", "~/.snowsql", "~/.vault-token", "~/.vault_pass*", "~/.ansible_vault*",
    "~/.terraform.d", "~/.terraformrc", "~/.oci", "~/.ibmcloud", "~/.bluemix", "~/.pulumi", "~/.railway", "~/.netlify",
    "~/.cargo/credentials*", "~/.gem/credentials", "~/.m2/settings*.xml", "~/.gradle/gradle.properties", "~/.kaggle",
    "~/.huggingface", "~/.cache/huggingface/token", "~/.cache/huggingface/stored_tokens", "~/.openai", "~/.anthropic",
    "~/.claude*", "~/.codex", "~/.gemini", "~/.continue", "~/.cursor", "~/.wandb", "~/.sentryclirc", "~/.composer",
    "~/.password-store", "~/.keychain", "~/.pki", "~/.putty", "~/.filezilla", "~/.Xauthority", "~/.ICEauthority",
    "~/.msmtprc", "~/.fetchmailrc", "~/.mbsyncrc", "~/.offlineimaprc", "~/.authinfo*", "~/.mutt", "~/.muttrc",
    "~/.local/share/keyrings", "~/.local/share/kwalletd", "~/.local/share/python_keyring", "~/.local/share/gnupg",
    "~/.local/share/pass", "~/.local/share/password-store", "~/.local/share/TelegramDesktop",
    "~/.local/share/containers", "~/.local/share/evolution", "~/.local/share/DBeaverData", "~/.local/share/bitwarden*",
    "~/.local/share/jupyter/runtime", "~/.config/mozilla", "~/.zen", "~/.purple", "~/.subversion/auth",
    "~/.config/Exodus", "~/.lastpass", "~/.local/state/gh", "~/.*_history", "~/.local/share/fish/fish_history",
    "~/.local/state/bash*", "~/.local/share/zsh*",
    # browsers, mail and talk
    "~/.mozilla", "~/.thunderbird", "~/.config/google-chrome*", "~/.config/chromium", "~/.config/BraveSoftware",
    "~/.config/microsoft-edge*", "~/.config/opera*", "~/.config/vivaldi*", "~/.librewolf", "~/.var/app", "~/snap",
    "~/.config/Signal*", "~/.config/Slack", "~/.config/discord*", "~/.config/Element*", "~/.config/teams*",
    "~/.config/zoom*", "~/.config/skype*", "~/.electrum", "~/.bitcoin", "~/.ethereum", "~/.config/Ledger*",
    "~/.config/solana", "~/.monero*",
    # of the machine
    "/etc/shadow*", "/etc/gshadow*", "/etc/sudoers*", "/etc/ssl/private", "/etc/ssh", "/run/secrets", "/run/user",
    "/var/run/secrets", "/var/run/docker.sock", "/run/docker.sock", "/etc/kubernetes", "/etc/letsencrypt", "/root/.ssh",
    "/etc/wireguard", "/etc/openvpn", "/etc/krb5.keytab", "/etc/NetworkManager/system-connections", "/etc/ppp",
)  # fmt: skip
"""Patterns of places, in any case of letters; ``~`` is any home, ``*`` stands for no slash."""
NAMES: Final = (
    "id_rsa*", "id_ed25519*", "id_ecdsa*", "id_dsa*", "*.pem", "*.key", "*.p8", "*.p12", "*.pfx", "*.ppk", "*.kdb",
    "*.kdbx", "*.jks", "*.keystore", "*.keytab", "*.gpg", "*.asc", "*.agekey", "*.ovpn", "*.tfstate", "*.tfvars",
    "*credential*", "*secret*", "*passwd*", "*password*", "api_key*", "api-key*", "apikey*", "*_api_key*",
    "client_secret*.json", "service-account*.json", "service_account*.json", "serviceaccount*.json",
    "*.env", ".env*", "kubeconfig*", "*.kubeconfig", "auth.json", "wallet.dat", "cookies", "cookies.sqlite",
    "logins.json", "login data", "key3.db", "key4.db", ".netrc", "_netrc", ".pypirc", ".pgpass", ".xauthority",
    ".msmtprc", ".vault_pass*", ".authinfo*", ".dockercfg", ".git-credentials", ".htpasswd", ".my.cnf", ".s3cfg",
)  # fmt: skip
"""Names in lower case that say it themselves, wherever they are; a name with ``token`` in it does so too."""
TOKENS: Final = "*token*"
NO_TOKENS: Final = (
    "*tokeni[sz]*", "*special_tokens*", "*added_tokens*", "*tokens_map*", "*token_type*", "*token_count*",
    "*tokens.bin", "*tokens.npy", "*tokens.npz", "*tokens.pt",
)  # fmt: skip
"""What models of language call theirs."""
SOURCES: Final = (".py", ".pyi", ".pyc", ".so", ".c", ".h", ".rs", ".go", ".js", ".ts", ".css", ".html", ".md", ".rst")
"""What a directory may hold whatever its name says."""
DIRECTORIES: Final = frozenset(
    {".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".oci", ".password-store", "secrets", "keyrings"}
    | {"private-keys-v1.d", "credentials", "passwords"}
)
PACKAGES: Final = frozenset({"site-packages", "dist-packages"})
"""Installed code calls its files as it likes: names say nothing below these."""


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


IS_NAME: Final = _any_of(NAMES)
IS_TOKEN: Final = _any_of((TOKENS,))
IS_NO_TOKEN: Final = _any_of(NO_TOKENS)


@functools.cache
def _places(home: str) -> re.Pattern[str]:
    """Return what a path that is a place of the table, or below one, matches."""

    def translated(pattern: str) -> str:
        return re.escape(pattern).replace(r"\*", "[^/]*")

    of_homes = "|".join(translated(place[2:]) for place in PLACES if place.startswith("~/"))
    of_machine = "|".join(translated(place) for place in PLACES if not place.startswith("~/"))
    homes = rf"(?:{re.escape(home)}|/root|/[^/]+/[^/]+)"
    return re.compile(rf"(?:{homes}/(?:{of_homes})|{of_machine})(?:/|\Z)", re.IGNORECASE | re.DOTALL)


def is_credential(path: str, home: str) -> bool:
    """Tell whether a path is, or is below, something that opens something else."""
    if _places(home).match(path):
        return True
    parts = path.lower().split("/")
    if not PACKAGES.isdisjoint(parts):
        parts = parts[: next(at for at, part in enumerate(parts) if part in PACKAGES)]
        return not DIRECTORIES.isdisjoint(parts)
    name = parts[-1]
    if IS_NAME.match(name) or not DIRECTORIES.isdisjoint(parts):
        return True
    return bool(IS_TOKEN.match(name)) and not name.endswith(SOURCES) and not IS_NO_TOKEN.match(name)
