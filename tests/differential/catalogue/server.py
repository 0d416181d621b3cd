"""Commands about the servers: configuration, clients, users, memory, persistence, channels."""

from typing import Any

from tests.differential.case import A, B, case
from tests.differential.compare import between, kind, kinds, only, some_kinds, unordered

TEXT = ("SET", A, "value")
USER = (
    "ACL",
    "SETUSER",
    "tester",
    "reset",
    "resetchannels",
    "on",
    ">secret",
    "~a*",
    "&ch*",
    "+@read",
    "-get",
)
NO_USER = ("ACL", "DELUSER", "tester")


def home(client: Any) -> Any:
    """The node that a call is aimed at, so that both clients ask the same one."""
    return client.get_node_from_key(A)


def info_of_home(client: Any) -> Any:
    return client.info("server", target_nodes=home(client))


def config_of_home(client: Any) -> Any:
    return client.config_get("maxmemory*", "port", target_nodes=home(client))


def config_set_everywhere(client: Any) -> Any:
    return client.config_set("slowlog-max-len", 128, "hz", 10, target_nodes="all")


def wait_at_home(client: Any) -> Any:
    return client.wait(0, 1, target_nodes=home(client))


def echo_at_home(client: Any) -> Any:
    return client.echo("hello", target_nodes=home(client))


def role_at_home(client: Any) -> Any:
    return client.execute_command("ROLE", target_nodes=home(client))


def client_list_of_ids(client: Any) -> Any:
    node = home(client)
    return client.client_list(client_id=[client.client_id(target_nodes=node)], target_nodes=node)


def publish_at_home(client: Any) -> Any:
    return client.publish("channel", "message", target_nodes=home(client))


def acl_of_home(client: Any) -> Any:
    return client.acl_getuser("tester", target_nodes=home(client))


def acl_refused(client: Any) -> Any:
    return client.acl_setuser("tester", passwords=["no prefix"])


def rewrite_at_home(client: Any) -> Any:
    return client.bgrewriteaof(target_nodes=home(client))


def lolwut_at_home(client: Any) -> Any:
    return client.lolwut(5, target_nodes=home(client))


ACL = [
    case("acl_cat"),
    case("acl_cat", "hyperloglog").seen_as(unordered),
    case("acl_cat", "no such category").fails(),
    case("acl_deluser", "tester").given(USER),
    case("acl_deluser", "missing", "nobody"),
    case("acl_dryrun", "default", "GET", A),
    case("acl_dryrun", "tester", "SET", A, 1).given(USER),
    case("acl_genpass").seen_as(kind),
    case("acl_genpass", 32).seen_as(kind),
    case("acl_genpass", "many").fails(),
    case("acl_getuser", "tester").given(USER),
    case("acl_getuser", "missing").given(NO_USER),
    case("acl_getuser").doing(acl_of_home).given(USER),
    case("acl_help"),
    case("acl_list").given(USER).seen_as(unordered),
    case("acl_load").fails(),
    case("acl_log").given(("ACL", "LOG", "RESET")),
    case("acl_log", 1).seen_as(some_kinds),
    case("acl_log", "all").fails(),
    case("acl_log_reset"),
    case("acl_save").fails(),
    case(
        "acl_setuser",
        "tester",
        enabled=True,
        nopass=True,
        commands=["+get"],
        keys=["a*"],
        channels=["c*"],
        reset_channels=True,
    ),
    case(
        "acl_setuser", "tester", enabled=True, passwords=["+one", b"+two"], categories=["+@read"], reset=True
    ),
    case("acl_setuser", "tester", hashed_passwords=["+" + "0" * 64], reset_keys=True, reset_channels=True),
    case("acl_setuser", "tester", reset=True, selectors=[("+set", "~b*")]).newer(),
    case("acl_setuser", "tester", nopass=True, passwords=["+x"]).fails(),
    case("acl_setuser", "tester", commands=["get"]).fails(),
    case("acl_setuser").doing(acl_refused).fails(),
    case("acl_users").given(USER).seen_as(unordered),
    case("acl_whoami"),
    case("acl_whoami", target_nodes="all"),
]

CLIENTS = [
    case("auth", "wrong").alone().fails(),
    case("auth", "wrong", username="nobody").alone().fails(),
    case("client_getname").alone().seen_as(some_kinds),
    case("client_getname", target_nodes="all").alone().seen_as(some_kinds),
    case("client_getredir").alone(),
    case("client_id").seen_as(between(1, 10**9)),
    case("client_id", target_nodes="primaries").seen_as(kinds),
    case("client_info").seen_as(some_kinds),
    case("client_kill", "127.0.0.1:1").fails(),
    case("client_kill_filter", _id=10**12),
    case(
        "client_kill_filter",
        _type="pubsub",
        addr="127.0.0.1:1",
        laddr="127.0.0.1:1",
        skipme=True,
        user="default",
    ),
    case("client_kill_filter", maxage=10**6).newer(),
    case("client_kill_filter").fails(),
    case("client_kill_filter", _type="other").fails(),
    case("client_kill_filter", skipme="yes").fails(),
    case("client_list").seen_as(some_kinds),
    case("client_list", _type="pubsub"),
    case("client_list", _type="other").fails(),
    case("client_list", client_id="1").fails(),
    case("client_list").doing(client_list_of_ids).seen_as(some_kinds).newer(),
    case("client_no_evict", "ON").fails(),
    case("client_no_touch", "ON").fails(),
    case("client_pause", 1),
    case("client_pause", 1, all=False),
    case("client_pause", "long").fails(),
    case("client_reply", "ON").alone(),
    case("client_reply", "LOUD").fails(),
    case("client_setinfo", "lib-name", "other").alone(),
    case("client_setname", "differential").alone(),
    case("client_setname", "with space").alone().fails(),
    case("client_tracking").alone().newer(),
    case("client_tracking", on=False).alone(),
    case("client_tracking", prefix=["a"]).fails(),
    case("client_tracking_on").alone().newer(),
    case("client_tracking_on", bcast=True, prefix=["a", "b"], noloop=True).alone().newer(),
    case("client_tracking_off").alone(),
    case("client_trackinginfo").alone(),
    case("client_unblock", 10**9),
    case("client_unblock", 10**9, error=True),
    case("client_unblock", "x").fails(),
    case("client_unpause"),
    case("hello").fails(),
    case("quit").alone().fails(),
    case("reset").alone().fails(),
    case("readonly").alone(),
    case("readonly", target_nodes="replicas").alone(),
    case("readwrite").alone(),
    case("watch", A).alone(),
    case("unwatch").alone(),
]

SERVER = [
    case("bgrewriteaof").fails(),
    case("bgrewriteaof").doing(rewrite_at_home).when_quiet(),
    case("bgsave").when_quiet(),
    case("bgsave", schedule=False).when_quiet(),
    case("command").seen_as(some_kinds),
    case("command_count").seen_as(between(200, 1000)),
    case("command_docs", "get").fails(),
    case("command_getkeys", "MSET", "a", 1, "b", 2),
    case("command_getkeys", "EVAL", "return 1", 2, "a", "b"),
    case("command_getkeys", "PING").fails(),
    case("command_getkeysandflags", "SET", "a", "b").fails(),
    case("command_info").fails(),
    case("command_list").seen_as(unordered),
    case("command_list", category="hyperloglog").seen_as(unordered),
    case("command_list", pattern="*hget*").seen_as(unordered),
    case("command_list", module="none"),
    case("config_get", "maxmemory-policy"),
    case("config_get", "hz", "maxmemory").newer(),
    case("config_get", "no such option"),
    case("config_get").seen_as(some_kinds),
    case("config_get").doing(config_of_home).newer(),
    case("config_get", "hz", target_nodes="all"),
    case("config_resetstat"),
    case("config_resetstat", target_nodes="all"),
    case("config_rewrite"),
    case("config_set", "slowlog-max-len", 128),
    case("config_set", "slowlog-max-len", "many").fails(),
    case("config_set", "no-such-option", 1).fails(),
    case("config_set").doing(config_set_everywhere).newer(),
    case("dbsize").seen_as(between(0, 10**9)),
    case("dbsize", target_nodes="all").seen_as(between(0, 10**9)),
    case("debug_segfault").fails(),
    case("echo", "hello").fails(),
    case("echo").doing(echo_at_home),
    case("failover").fails(),
    case("flushall").given(TEXT),
    case("flushall", asynchronous=True),
    case("flushdb").given(TEXT),
    case("flushdb", asynchronous=True).given(TEXT, ("SET", B, 1)),
    case("info").seen_as(some_kinds),
    case("info", "keyspace").seen_as(some_kinds),
    case("info", "cpu", "clients").seen_as(some_kinds).newer(),
    case("info", "no such section"),
    case("info").doing(info_of_home).seen_as(only("tcp_port", "run_id", "process_id")),
    case("info", "replication", target_nodes="all").seen_as(some_kinds),
    case("lastsave").seen_as(kind),
    case("lastsave", target_nodes="all").seen_as(kinds),
    case("latency_doctor").fails(),
    case("latency_graph").fails(),
    case("latency_histogram", "get").fails(),
    case("latency_history", "command"),
    case("latency_latest").seen_as(some_kinds),
    case("latency_reset").seen_as(between(0, 100)),
    case("latency_reset", "command"),
    case("lolwut").fails(),
    case("lolwut", 5, 1, 1).fails(),
    case("lolwut").doing(lolwut_at_home).seen_as(kind),
    case("memory_doctor").fails(),
    case("memory_help").fails(),
    case("memory_malloc_stats").seen_as(kind),
    case("memory_purge"),
    case("memory_stats").seen_as(some_kinds),
    case("module_list").seen_as(some_kinds),
    case("module_load", "/nowhere.so").denied(),
    case("module_loadex", "/nowhere.so", options=["name", "value"], args=["x"]).denied(),
    case("module_unload", "nothing").fails(),
    case("ping"),
    case("ping", target_nodes="all"),
    case("ping", target_nodes="replicas"),
    case("ping", target_nodes="random"),
    case("ping", target_nodes="nowhere").fails(),
    case("psync", "?", -1).denied(),
    case("sync").denied(),
    case("role").fails(),
    case("role").doing(role_at_home).seen_as(some_kinds),
    case("save").when_quiet(),
    case("shutdown").denied(),
    case("shutdown", save=True, now=True, force=True).denied(),
    case("shutdown", nosave=True, abort=True).denied(),
    case("shutdown", save=True, nosave=True).fails(),
    case("slowlog_get").seen_as(some_kinds),
    case("slowlog_get", 1).seen_as(some_kinds),
    case("slowlog_len").seen_as(between(0, 128)),
    case("slowlog_reset"),
    case("slowlog_reset", target_nodes="all"),
    case("time").seen_as(between(0, 4_000_000_000)),
    case("time", target_nodes="all").seen_as(kinds),
    case("wait", 0, 1).seen_as(between(0, 3)),
    case("wait", "many", 1).fails(),
    case("wait").doing(wait_at_home).seen_as(between(0, 1)),
    case("waitaof", 0, 0, 1).seen_as(between(0, 1)),
]

CHANNELS = [
    case("publish", "channel", "message"),
    case("publish", "channel", b"\xff"),
    case("publish", "channel", None).fails(),
    case("publish").doing(publish_at_home),
    case("pubsub_channels"),
    case("pubsub_channels", "none*", target_nodes="all"),
    case("pubsub_numpat"),
    case("pubsub_numsub", "channel", b"other"),
    case("pubsub_numsub", "channel", target_nodes="all"),
    case("pubsub_numsub"),
    case("pubsub_shardchannels"),
    case("pubsub_shardnumsub", "channel"),
    case("spublish", A, "message"),
]

CASES = [*ACL, *CLIENTS, *SERVER, *CHANNELS]
