"""A grid of planted secrets: names of credentials × syntaxes × alphabets of values.

Each syntax is a template with ``{name}`` and ``{value}``, the path of a file that holds it, and how
the value is escaped there.
"""

import random
import re
import string
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

STYLES: Final[dict[str, Callable[[list[str]], str]]] = {
    "snake": "_".join,
    "UPPER": lambda parts: "_".join(parts).upper(),
    "camel": lambda parts: parts[0] + "".join(p.capitalize() for p in parts[1:]),
    "Pascal": lambda parts: "".join(p.capitalize() for p in parts),
}
NOUNS: Final = (
    ["password"], ["passwd"], ["pwd"], ["pass"], ["passphrase"], ["secret"], ["token"], ["api", "key"],
    ["credential"], ["secret", "key"], ["access", "key"], ["private", "key"], ["auth", "token"],
    ["client", "secret"], ["encryption", "key"], ["signing", "key"],
)  # fmt: skip
PREFIXES: Final = ([], ["db"], ["postgres"], ["my", "app"], ["smtp", "server"], ["prod"])
SUFFIXES: Final = ([], ["prod"], ["1"], ["value"])


def names() -> Iterator[str]:
    for noun in NOUNS:
        for style in STYLES.values():
            for prefix in PREFIXES:
                for suffix in SUFFIXES:
                    parts = [*prefix, *noun, *suffix]
                    if (prefix or suffix) or len(noun) > 0:
                        yield style(parts)


class Syntax(NamedTuple):
    """How a value follows its name in a kind of file."""

    path: str
    template: str
    escape: Callable[[str], str] = str
    without: str = ""
    """Characters that a value cannot hold there."""


def _backslash(quote: str) -> Callable[[str], str]:
    return lambda value: value.replace("\\", "\\\\").replace(quote, "\\" + quote)


def _xml(value: str) -> str:
    return (
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )


def _doubled(value: str) -> str:
    return value.replace("'", "''")


_JSON: Final = _backslash('"')
_C: Final = _backslash('"')
_SHELL_BARE: Final = "'\"`\\$(){}[]<>;&|*?!#~ "
_BARE: Final = "'\"\\#`,{}[]&*!|>%@: "
SYNTAXES: Final = {
    "python": Syntax("app.py", 'x = 1\n{name} = "{value}"\n', _C),
    "python single": Syntax("app.py", "{name} = '{value}'\n", _backslash("'")),
    "python bytes": Syntax("app.py", '{name} = b"{value}"\n', _C),
    "python typed": Syntax("app.py", '{name}: Final[str] = "{value}"\n', _C),
    "python argument": Syntax("app.py", 'connect(host, {name}="{value}", port=1)\n', _C),
    "python subscript": Syntax("app.py", 'os.environ["{name}"] = "{value}"\n', _C),
    "python getenv": Syntax("app.py", 'x = os.getenv("{name}", "{value}")\n', _C),
    "python or": Syntax("app.py", 'x = os.environ.get("{name}") or "{value}"\n', _C),
    "python dict": Syntax("app.py", 'x = {{"user": "u", "{name}": "{value}"}}\n', _C),
    "python next line": Syntax("app.py", '{name} = (\n    "{value}"\n)\n', _C),
    "python comparison": Syntax("app.py", 'if {name} == "{value}":\n', _C),
    "javascript": Syntax("app.js", "const {name} = '{value}';\n", _backslash("'")),
    "javascript template": Syntax("app.js", "const {name} = `{value}`;\n", _backslash("`"), "$"),
    "javascript object": Syntax("app.js", '  {name}: "{value}",\n', _C),
    "javascript default": Syntax("app.js", 'const x = process.env.{name} || "{value}";\n', _C),
    "javascript nullish": Syntax("app.js", 'const x = process.env.{name} ?? "{value}";\n', _C),
    "typescript": Syntax("app.ts", "export const {name}: string = '{value}';\n", _backslash("'")),
    "typescript field": Syntax("app.ts", '  private readonly {name}: string | null = "{value}";\n', _C),
    "java": Syntax("App.java", 'private static final String {name} = "{value}";\n', _C),
    "java setter": Syntax("App.java", 'props.setProperty("{name}", "{value}");\n', _C),
    "java put": Syntax("App.java", 'map.put("{name}", "{value}");\n', _C),
    "kotlin": Syntax("App.kt", 'val {name}: String = "{value}"\n', _C, "$"),
    "scala": Syntax("App.scala", 'val {name} = "{value}"\n', _C),
    "go": Syntax("app.go", '{name} := "{value}"\n', _C),
    "go typed": Syntax("app.go", 'var {name} string = "{value}"\n', _C),
    "go raw": Syntax("app.go", "const {name} = `{value}`\n", str, "`"),
    "rust": Syntax("app.rs", 'const {name}: &str = "{value}";\n', _C),
    "rust static": Syntax("app.rs", 'static {name}: &\'static str = "{value}";\n', _C),
    "rust string": Syntax("app.rs", 'let {name} = String::from("{value}");\n', _C),
    "rust raw": Syntax("app.rs", 'let {name} = r#"{value}"#;\n', str, '"'),
    "c": Syntax("app.c", 'static const char {name}[] = "{value}";\n', _C),
    "c pointer": Syntax("app.c", 'const char *{name} = "{value}";\n', _C),
    "c define": Syntax("app.h", '#define {name} "{value}"\n', _C),
    "c++": Syntax("app.cpp", 'std::string {name}{{"{value}"}};\n', _C),
    "objective-c": Syntax("App.m", 'NSString *{name} = @"{value}";\n', _C),
    "swift": Syntax("App.swift", 'let {name}: String = "{value}"\n', _C),
    "c#": Syntax("App.cs", 'private const string {name} = "{value}";\n', _C),
    "c# verbatim": Syntax("App.cs", 'var {name} = @"{value}";\n', str, '"'),
    "c# property": Syntax("App.cs", 'public string {name} {{ get; set; }} = "{value}";\n', _C),
    "php": Syntax("app.php", "${name} = '{value}';\n", _backslash("'")),
    "php define": Syntax("app.php", "define('{name}', '{value}');\n", _backslash("'")),
    "php array": Syntax("app.php", "    '{name}' => '{value}',\n", _backslash("'")),
    "php env": Syntax("app.php", "    'x' => env('{name}', '{value}'),\n", _backslash("'")),
    "ruby": Syntax("app.rb", "{name} = '{value}'\n", _backslash("'")),
    "ruby symbol": Syntax("app.rb", "  :{name} => '{value}',\n", _backslash("'")),
    "ruby fetch": Syntax("app.rb", "x = ENV.fetch('{name}', '{value}')\n", _backslash("'")),
    "perl": Syntax("app.pl", "my ${name} = '{value}';\n", _backslash("'")),
    "r": Syntax("app.R", '{name} <- "{value}"\n', _C),
    "lua": Syntax("app.lua", 'local {name} = "{value}"\n', _C),
    "elixir": Syntax("config.exs", '  {name}: "{value}",\n', _C),
    "clojure": Syntax("app.clj", '{{:{name} "{value}"}}\n', _C),
    "dart": Syntax("app.dart", "final {name} = '{value}';\n", _backslash("'"), "$"),
    "visual basic": Syntax("app.vb", 'Dim {name} As String = "{value}"\n', str, '"'),
    "powershell": Syntax("app.ps1", "${name} = '{value}'\n", _doubled),
    "environment file": Syntax(".env", "A=b\n{name}={value}\n", str, "'\"`\\$# "),
    "environment quoted": Syntax("prod.env", '{name}="{value}"\n', _C, "$"),
    "shell export": Syntax("run.sh", "export {name}={value}\n", str, _SHELL_BARE),
    "shell quoted": Syntax("run.sh", "export {name}='{value}'\n", str, "'"),
    "shell default": Syntax("run.sh", 'x="${{{name}:-{value}}}"\n', str, _SHELL_BARE),
    "shell command": Syntax("run.sh", "{name}={value} ./start\n", str, _SHELL_BARE),
    "batch": Syntax("run.bat", "set {name}={value}\n", str, _SHELL_BARE + "%^="),
    "properties": Syntax("app.properties", "db.user=app\ndb.{name}={value}\n", str, "\\ "),
    "ini": Syntax("app.ini", "[db]\n{name} = {value}\n", str, ";#'\"\\ "),
    "toml": Syntax("app.toml", '{name} = "{value}"\n', _C),
    "yaml": Syntax("app.yml", "db:\n  {name}: {value}\n", str, _BARE),
    "yaml quoted": Syntax("app.yml", 'db:\n  {name}: "{value}"\n', _C),
    "yaml single": Syntax("app.yml", "db:\n  {name}: '{value}'\n", _doubled),
    "yaml block": Syntax("app.yml", "db:\n  {name}: |\n    {value}\n  user: x\n", str, " #"),
    "yaml folded": Syntax("app.yml", "db:\n  {name}: >-\n    {value}\n", str, " #"),
    "yaml list": Syntax("app.yml", "db:\n  {name}s:\n    - {value}\n", str, _BARE),
    "yaml item": Syntax("app.yml", "  - {name}: {value}\n    user: x\n", str, _BARE),
    "yaml flow": Syntax("app.yml", "db: {{user: x, {name}: {value}}}\n", str, _BARE),
    "yaml next line": Syntax("app.yml", '  {name}:\n    "{value}"\n', _C),
    "compose": Syntax("docker-compose.yml", "    environment:\n      {name}: {value}\n", str, _BARE),
    "compose list": Syntax("compose.yaml", "    environment:\n      - {name}={value}\n", str, _BARE),
    "dockerfile": Syntax("Dockerfile", "FROM debian\nENV {name}={value}\n", str, _SHELL_BARE),
    "dockerfile space": Syntax("Dockerfile", "ENV {name} {value}\n", str, _SHELL_BARE),
    "dockerfile arg": Syntax("Dockerfile", 'ARG {name}="{value}"\n', _C),
    "kubernetes": Syntax("pod.yaml", "  - name: {name}\n    value: {value}\n", str, _BARE),
    "kubernetes quoted": Syntax("pod.yaml", '  - name: "{name}"\n    value: "{value}"\n', _C),
    "kubernetes flow": Syntax("pod.yaml", '  - {{name: {name}, value: "{value}"}}\n', _C),
    "json": Syntax("app.json", '{{"db": {{"{name}": "{value}"}}}}\n', _JSON),
    "json pair": Syntax("task.json", '{{"name": "{name}", "value": "{value}"}}\n', _JSON),
    "json pair lines": Syntax("task.json", '  {{\n    "name": "{name}",\n    "value": "{value}"\n  }}\n', _JSON),
    "terraform": Syntax("main.tf", '  {name} = "{value}"\n', _C, "$%"),
    "terraform variable": Syntax("main.tf", 'variable "{name}" {{\n  type = string\n  default = "{value}"\n}}\n', _C, "$%"),
    "terraform pair": Syntax("main.tf", '  name  = "{name}"\n  value = "{value}"\n', _C, "$%"),
    "xml element": Syntax("app.xml", "<db><{name}>{value}</{name}></db>\n", _xml),
    "xml attribute": Syntax("app.xml", '<db user="x" {name}="{value}"/>\n', _xml),
    "xml key": Syntax("web.config", '<add key="{name}" value="{value}" />\n', _xml),
    "xml property": Syntax("beans.xml", '<property name="{name}" value="{value}"/>\n', _xml),
    "xml entry": Syntax("app.xml", '<entry key="{name}">{value}</entry>\n', _xml),
    "xml name value": Syntax("core-site.xml", "<property><name>{name}</name><value>{value}</value></property>\n", _xml),
    "xml name value lines": Syntax("core-site.xml", "  <name>{name}</name>\n  <value>{value}</value>\n", _xml),
    "plist": Syntax("Info.plist", "  <key>{name}</key>\n  <string>{value}</string>\n", _xml),
    "notebook": Syntax("a.ipynb", '   "{name} = \\"{value}\\"\\n",\n', lambda v: _JSON(_C(v))),
    "notebook single": Syntax("a.ipynb", "   \"{name} = '{value}'\\n\",\n", lambda v: _JSON(_backslash("'")(v))),
    "notebook environment": Syntax("a.ipynb", '   "os.environ[\\"{name}\\"] = \\"{value}\\"\\n",\n', lambda v: _JSON(_C(v))),
    "sql": Syntax("init.sql", "SET {name} = '{value}';\n", _doubled, "\\"),
    "option": Syntax("run.sh", "tool --user x --{option} {value}\n", str, _SHELL_BARE + "-"),
    "option equals": Syntax("run.sh", "tool --{option}={value}\n", str, _SHELL_BARE),
    "option quoted": Syntax("README.md", "Run `tool --{option} '{value}'`.\n", str, "'`"),
    "option in code": Syntax("run.py", 'run("tool --{option}={value} --x")\n', str, _SHELL_BARE),
    "message": Syntax("", "Set {name}={value} there\n", str, _SHELL_BARE + ".,"),
    "markdown": Syntax("README.md", "```\n{name}: {value}\n```\n", str, _BARE + ".,"),
    "url query": Syntax("app.py", 'get("https://h/x?user=u&{name}={value}&y=1")\n', str, _SHELL_BARE + '"%=+'),
    "connection string": Syntax("app.cs", 'var c = "Server=db;{name}={value};Timeout=3";\n', str, _SHELL_BARE + "=,"),
}  # fmt: skip

COMMANDS: Final = {
    "mysql": ("run.sh", "mysql -u root -p{value} shop\n"),
    "mysqldump": ("run.sh", "mysqldump --user=root -p'{value}' shop > dump\n"),
    "pgpassword": ("run.sh", "PGPASSWORD={value} psql -h db\n"),
    "sshpass": ("run.sh", "sshpass -p '{value}' ssh root@host\n"),
    "docker login": ("run.sh", "docker login -u me -p {value} registry.corp.dev\n"),
    "redis-cli": ("run.sh", "redis-cli -h db -a {value} ping\n"),
    "curl": ("run.sh", "curl -s -u admin:{value} https://api.corp.dev/x\n"),
    "curl user": ("README.md", "    curl --user 'admin:{value}' https://api.corp.dev/x\n"),
    "wget": ("run.sh", "wget --http-user=me --http-password={value} https://corp.dev/x\n"),
    "mongo": ("run.sh", "mongodump -u root -p {value} --db shop\n"),
    "ldapsearch": ("run.sh", "ldapsearch -D cn=admin -w {value} -b dc=corp\n"),
    "smbclient": ("run.sh", "smbclient //host/share -U admin%{value}\n"),
    "openssl": ("run.sh", "openssl enc -aes-256-cbc -pass pass:{value} -in a\n"),
    "zip": ("run.sh", "zip -P {value} a.zip a\n"),
    "7z": ("run.sh", "7z a -p{value} a.7z a\n"),
    "keytool": ("build.sh", "keytool -genkey -keystore k.jks -storepass {value} -alias a\n"),
    "htpasswd": ("run.sh", "htpasswd -bc file admin {value}\n"),
    "rabbitmqctl": ("run.sh", "rabbitmqctl add_user admin {value}\n"),
    "net user": ("run.bat", "net user admin {value} /add\n"),
    "chpasswd": ("Dockerfile", "RUN echo 'root:{value}' | chpasswd\n"),
    "sudo": ("run.sh", "echo {value} | sudo -S apt update\n"),
    "password-stdin": ("run.sh", "echo {value} | docker login -u me --password-stdin\n"),
    "identified by": ("init.sql", "CREATE USER app IDENTIFIED BY '{value}';\n"),
    "create role": ("init.sql", "CREATE ROLE app LOGIN PASSWORD '{value}';\n"),
    "encrypted password": ("init.sql", "ALTER USER app WITH ENCRYPTED PASSWORD '{value}';\n"),
    "create login": ("init.sql", "CREATE LOGIN app WITH PASSWORD = N'{value}';\n"),
    "password function": ("init.sql", "SET PASSWORD FOR app = PASSWORD('{value}');\n"),
    "insert": ("init.sql", "INSERT INTO users (name, password, age) VALUES ('ann', '{value}', 3);\n"),
    "requirepass": ("redis.conf", "requirepass {value}\n"),
    "netrc": (".netrc", "machine corp.dev login me password {value}\n"),
    "wpa": ("wpa_supplicant.conf", '    psk="{value}"\n'),
    "cisco": ("router.cfg", "username admin privilege 15 secret 5 {value}\n"),
    "url": ("app.py", 'url = "postgres://app:{value}@db.corp.dev:5432/shop"\n'),
    "basic header": ("run.sh", "curl -H 'Authorization: Bearer {value}' https://corp.dev\n"),
    "nmcli": ("run.sh", "nmcli dev wifi connect home password {value}\n"),
}  # fmt: skip

LETTERS: Final = string.ascii_letters
ALNUM: Final = string.ascii_letters + string.digits
VALUES: Final = {
    "letters": (LETTERS, 12),
    "lower letters and digits": (string.ascii_lowercase + string.digits, 14),
    "alphanumeric": (ALNUM, 12),
    "symbols": (ALNUM + "!@#%^*+=-_", 14),
    "brackets": (ALNUM + "(){}[]<>", 14),
    "dollars": (ALNUM + "$", 12),
    "quotes": (ALNUM + "\"'", 14),
    "all": (ALNUM + "!#$%&()*+,-.:;<=>?@[]^_{|}~", 20),
    "four": (ALNUM, 4),
    "sixty": (ALNUM, 60),
}


def value(kind: str, rng: random.Random, without: str = "") -> str:
    """Return a random value of an alphabet that a syntax can hold."""
    alphabet, length = VALUES[kind]
    allowed = [c for c in alphabet if c not in without]
    while True:
        # Begins and ends like a real one: not with what its syntax would take for structure.
        text = "".join(rng.choice(allowed) for _ in range(length))
        ends = text[0] + text[-1]
        has_digit = any(c.isdigit() for c in text) or kind == "letters"
        if ends.isalnum() and has_digit and any(c.isalpha() for c in text):
            return text


def kebab(name: str) -> str:
    """Return a name as an option of a command line is written: ``dbPassword`` → ``db-password``."""
    return "-".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)).lower()
